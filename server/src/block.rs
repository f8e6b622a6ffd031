//! Blocks: neighbouring payloads packed together, so that millions of them are a few rows, and a
//! range of them is read without the rest.

use bytes::Bytes;

/// Payloads that a block holds at the most: finding one means decoding all lengths. Inputs of fuzzing
/// are small, and are to fill some blocks.
pub const MAX_PAYLOADS: usize = if cfg!(feature = "fuzzing") { 16 } else { 4096 };

/// Bytes at which a block is closed.
pub const MAX_BYTES: usize = 256 << 10;

/// Compressed bytes above which a block's data stands in a blob instead of a row.
pub const MAX_INLINE: usize = 64 << 10;

/// Bytes above which data is put into a blob as it is: what compresses so well is rare, and to find out takes a while.
pub const MAX_COMPRESSED: usize = 1 << 20;

/// Neighbouring payloads, back to back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The index of the first.
    pub first: u64,
    /// The bytes of each.
    pub lengths: Vec<u32>,
    /// The payloads.
    pub data: Bytes,
}

impl Block {
    /// The index behind the last payload.
    pub fn end(&self) -> u64 {
        self.first + self.lengths.len() as u64
    }

    /// Every payload, in order.
    pub fn payloads(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = 0;
        self.lengths.iter().map(move |&length| {
            let start = at;
            at += length as usize;
            self.data.slice(start.min(self.data.len())..at.min(self.data.len()))
        })
    }
}

/// Packs payloads into blocks of bounded size, in order.
pub fn pack<P: AsRef<[u8]>>(payloads: impl IntoIterator<Item = P>) -> Vec<Block> {
    let mut packer = Packer::default();
    let mut blocks: Vec<Block> =
        payloads.into_iter().filter_map(|payload| packer.push(payload.as_ref())).collect();
    blocks.extend(packer.finish());
    blocks
}

/// Packs payloads that come one by one.
#[derive(Debug, Default)]
pub struct Packer {
    first: u64,
    lengths: Vec<u32>,
    data: Vec<u8>,
}

impl Packer {
    /// Takes the next payload. Gives the block before it, if that is full.
    pub fn push(&mut self, payload: &[u8]) -> Option<Block> {
        let is_full = self.lengths.len() == MAX_PAYLOADS
            || (!self.lengths.is_empty() && self.data.len() + payload.len() > MAX_BYTES);
        let full = if is_full { self.close() } else { None };
        self.lengths.push(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        self.data.extend_from_slice(payload);
        full
    }

    /// The last block, if there is one.
    pub fn finish(mut self) -> Option<Block> {
        self.close()
    }

    fn close(&mut self) -> Option<Block> {
        if self.lengths.is_empty() {
            return None;
        }
        let block = Block {
            first: self.first,
            lengths: std::mem::take(&mut self.lengths),
            data: std::mem::take(&mut self.data).into(),
        };
        self.first = block.end();
        Some(block)
    }
}

/// Writes lengths as varints (LEB128).
pub fn encode_lengths(lengths: &[u32]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let mut rest = length;
        while rest >= 0x80 {
            encoded.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        encoded.push(rest as u8);
    }
    encoded
}

/// Reads lengths written by [`encode_lengths`]; `None` if the bytes are not such.
pub fn decode_lengths(encoded: &[u8]) -> Option<Vec<u32>> {
    let mut lengths = Vec::with_capacity(encoded.len());
    let (mut value, mut shift) = (0_u32, 0);
    for &byte in encoded {
        let bits = u32::from(byte & 0x7f);
        let shifted = bits.checked_shl(shift)?;
        // What does not fit, and zeros at the end, were never written.
        if shifted >> shift != bits || (byte == 0 && shift > 0) {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            lengths.push(value);
            (value, shift) = (0, 0);
        } else {
            shift += 7;
        }
    }
    (shift == 0).then_some(lengths)
}

/// Compresses the data of a block for its row.
pub fn compress(data: &[u8]) -> Vec<u8> {
    lz4_flex::compress_prepend_size(data)
}

/// Undoes [`compress`]; `None` if the bytes are damaged.
pub fn decompress(data: &[u8]) -> Option<Vec<u8>> {
    // The size stands in front. One that lies must not take all memory: a byte stands for 255 at most.
    let (size, _) = lz4_flex::block::uncompressed_size(data).ok()?;
    if size > data.len().saturating_mul(255) {
        return None;
    }
    lz4_flex::decompress_size_prepended(data).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_come_back(lengths: Vec<u32>) {
            prop_assert_eq!(decode_lengths(&encode_lengths(&lengths)), Some(lengths));
        }

        #[test]
        fn payloads_come_back(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9000)) {
            let blocks = pack(&payloads);
            let read: Vec<Bytes> = blocks.iter().flat_map(|block| block.payloads().collect::<Vec<_>>()).collect();
            prop_assert_eq!(read, payloads);
            let mut next = 0;
            for block in &blocks {
                prop_assert_eq!(block.first, next);
                prop_assert!(block.lengths.len() <= MAX_PAYLOADS);
                next = block.end();
            }
        }
    }

    #[test]
    fn lengths_that_were_never_written_are_none() {
        for damaged in [&[0x80][..], &[0x80, 0], &[0xff, 0xff, 0xff, 0xff, 0x10], &[0xff; 6]] {
            assert_eq!(decode_lengths(damaged), None, "{damaged:x?}");
        }
    }

    #[test]
    fn a_size_that_lies_takes_no_memory() {
        let mut row = compress(b"payload");
        row[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decompress(&row), None);
        let long = vec![7; 1 << 20];
        assert_eq!(decompress(&compress(&long)), Some(long));
    }

    #[test]
    fn a_large_payload_is_a_block_of_its_own() {
        let blocks = pack([vec![0; 10], vec![1; MAX_BYTES + 1], vec![2; 10]]);
        assert_eq!(blocks.iter().map(|block| block.lengths.len()).collect::<Vec<_>>(), [1, 1, 1]);
    }
}

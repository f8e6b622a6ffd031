//! Blocks: payloads packed together, their lengths, and their compressed bytes as a row holds them.
//!
//! The first four bytes say which payloads are read, the rest is what is packed, or was read.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use server::fuzzing::{self, Place, StoredBlock};

fuzz_target!(|data: &[u8]| {
    let Some((&[a, b, c, d], data)) = data.split_first_chunk::<4>() else { return };
    let (from, to) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    // Bytes of a row that may be damaged.
    if let Some(lengths) = fuzzing::decode_lengths(data) {
        assert_eq!(fuzzing::encode_lengths(&lengths), data, "there is one form");
    }
    if let Some(bytes) = fuzzing::decompress(data) {
        assert_eq!(fuzzing::decompress(&fuzzing::compress(&bytes)), Some(bytes));
    }
    // Payloads of any length.
    let payloads: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let blocks = fuzzing::pack(&payloads);
    let unpacked: Vec<Bytes> =
        blocks.iter().flat_map(|block| block.payloads().collect::<Vec<_>>()).collect();
    assert_eq!(unpacked, payloads, "what is packed comes back");
    let (from, to) = (u64::from(from.min(to)), u64::from(from.max(to)));
    let (mut sliced, mut next) = (Vec::new(), 0);
    for block in blocks {
        assert_eq!(block.first, next, "without a gap");
        next = block.end();
        let lengths = fuzzing::decode_lengths(&fuzzing::encode_lengths(&block.lengths));
        assert_eq!(lengths.as_ref(), Some(&block.lengths));
        let row = fuzzing::compress(&block.data);
        assert_eq!(fuzzing::decompress(&row).as_deref(), Some(&block.data[..]));
        let place = Place::Row(row);
        let stored = StoredBlock { first: block.first, lengths: block.lengths, place };
        let (span, lengths) = stored.slice(from, to);
        let mut at = span.start;
        for length in lengths {
            sliced.push(block.data.slice(at..at + *length as usize));
            at += *length as usize;
        }
        assert_eq!(at, span.end, "a slice is its payloads");
    }
    let wanted = payloads.iter().skip(from as usize).take((to - from) as usize);
    assert!(sliced.iter().eq(wanted), "a slice is the payloads that it names");
});

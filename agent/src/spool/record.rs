//! Records in a file that only grows, so that what was being written when the machine went down
//! is recognised and left out.
//!
//! ```text
//! u32, little endian: length | u32, little endian: CRC-32 of what follows | an envelope
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use flate2::Crc;
use protocol::envelope;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before the envelope.
const PREFIX: u64 = 8;

/// Writes a record; how many bytes it takes.
///
/// # Errors
/// When it cannot be written.
pub fn write<T: Serialize>(file: &mut impl Write, header: &T, body: &[u8]) -> io::Result<u64> {
    let sealed = envelope::seal(header, body).map_err(io::Error::other)?;
    let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&checksum(&sealed).to_le_bytes())?;
    file.write_all(&sealed)?;
    Ok(PREFIX + u64::from(length))
}

fn checksum(sealed: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(sealed);
    crc.sum()
}

/// Reads records one after the other.
#[derive(Debug)]
pub struct Reader<F = BufReader<File>> {
    file: F,
    at: u64,
    end: u64,
    /// Whether what comes next is no record: then nothing behind it is.
    ended: bool,
}

impl Reader {
    /// Reads the records of a file from the byte `start` on, where one begins.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, start: u64) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let end = file.get_ref().metadata()?.len();
        file.seek(SeekFrom::Start(start))?;
        Ok(Self::over(file, start, end))
    }
}

impl<F: Read> Reader<F> {
    /// Reads the records of a file of `end` bytes, of which `start` were read.
    pub fn over(file: F, start: u64, end: u64) -> Self {
        Self { file, at: start, end, ended: false }
    }

    /// Where the next record begins.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Bytes that follow the last record that was read. More than none at the end: it was not written
    /// whole, or is damaged.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The next record: its header and its body. Nothing at the end, and where the bytes are none
    /// that were written whole: behind these nothing was written any more.
    ///
    /// # Errors
    /// When the file cannot be read, or a whole record does not hold what is looked for.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<u8>)>> {
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        let left = self.end.saturating_sub(self.at);
        if left < PREFIX {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX as usize];
        self.file.read_exact(&mut prefix)?;
        let [a, b, c, d, e, f, g, h] = prefix;
        let (length, sum) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        // Blocks that a file system has given to the file and not filled are zeros.
        if length == 0 || u64::from(length) > left - PREFIX {
            return Ok(None);
        }
        let mut sealed = vec![0; length as usize];
        self.file.read_exact(&mut sealed)?;
        if checksum(&sealed) != sum {
            return Ok(None);
        }
        let unread = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (header, start) = envelope::open(&sealed).map_err(unread)?;
        self.at += PREFIX + u64::from(length);
        self.ended = false;
        Ok(Some((header, sealed.split_off(start))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> Vec<(u32, Vec<u8>)> {
        let mut reader = Reader::open(path, 0).unwrap();
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn whatever_is_left_of_the_last_record_the_ones_before_it_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let mut bytes = Vec::new();
        for (header, body) in [(1_u32, "one"), (2, ""), (3, "three")] {
            write(&mut bytes, &header, body.as_bytes()).unwrap();
        }
        let whole = bytes.len();
        std::fs::write(&path, &bytes).unwrap();
        let two = vec![(1, b"one".to_vec()), (2, Vec::new())];
        let three = [two.clone(), vec![(3, b"three".to_vec())]].concat();
        assert_eq!(records(&path), three);
        // The last record takes 8 bytes, 4 for the header's length, 1 for the header, 5 for the body.
        for cut in whole - 17..whole {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(records(&path), two, "cut at {cut} of {whole}");
            let mut unfilled = bytes[..cut].to_vec();
            unfilled.resize(whole + 4096, 0);
            std::fs::write(&path, &unfilled).unwrap();
            assert_eq!(records(&path), two, "zeros from {cut} of {whole} on");
        }
        for at in whole - 18..whole {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 1;
            std::fs::write(&path, &spoilt).unwrap();
            assert_eq!(records(&path), two, "spoilt at {at} of {whole}");
        }
    }

    #[test]
    fn behind_what_is_damaged_nothing_is_read_however_often_it_is_asked_for() {
        let mut bytes = Vec::new();
        for body in ["one", "two", "three"] {
            write(&mut bytes, &0_u32, body.as_bytes()).unwrap();
        }
        bytes[8] ^= 1;
        let mut reader = Reader::over(&bytes[..], 0, bytes.len() as u64);
        for _ in 0..3 {
            assert_eq!(reader.next::<u32>().unwrap(), None);
            assert_eq!((reader.position(), reader.left()), (0, bytes.len() as u64));
        }
    }

    #[test]
    fn reading_may_begin_at_any_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records");
        let mut bytes = Vec::new();
        let first = write(&mut bytes, &1_u32, b"one").unwrap();
        write(&mut bytes, &2_u32, b"two").unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = Reader::open(&path, first).unwrap();
        assert_eq!(reader.next().unwrap(), Some((2_u32, b"two".to_vec())));
        assert_eq!(reader.position(), bytes.len() as u64);
        assert_eq!(reader.next::<u32>().unwrap(), None);
    }
}

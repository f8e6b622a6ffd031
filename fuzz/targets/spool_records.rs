//! What an agent that was killed has left on disk: records, one of them cut off or damaged.
//!
//! The first five bytes say where the file is cut, and which byte is damaged how; the rest is the bodies
//! of records, parted by zeros, and also a file as it is.

#![no_main]

use agent::fuzzing::record::{self, Reader};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Reads a file to its end: what it holds, and where each record ends. `is_ours` says that every record
/// in it that is whole was written by us.
fn read(file: &[u8], is_ours: bool) -> Vec<(Value, Vec<u8>, u64)> {
    let mut reader = Reader::over(file, 0, file.len() as u64);
    let mut records = Vec::new();
    loop {
        let before = reader.position();
        match reader.next::<Value>() {
            Ok(Some((header, body))) => {
                assert!(reader.position() > before);
                assert!(body.len() as u64 <= reader.position() - before, "it is in the file");
                records.push((header, body, reader.position()));
            }
            Ok(None) => {
                assert_eq!(reader.position(), before);
                assert_eq!(reader.left(), file.len() as u64 - before);
                assert!(reader.next::<Value>().is_ok_and(|next| next.is_none()), "it has ended");
                return records;
            }
            // A record that is whole, and none of ours.
            Err(error) => {
                assert!(!is_ours, "{error}");
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                return records;
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[cut, cut_high, at, at_high, mask], data)) = data.split_first_chunk::<5>() else {
        return;
    };
    read(data, false);
    let (mut file, mut written) = (Vec::new(), Vec::new());
    for (number, body) in data.split(|byte| *byte == 0).enumerate() {
        let header = Value::from(number);
        record::write(&mut file, &header, body).expect("memory can be written");
        written.push((header, body.to_vec(), file.len() as u64));
    }
    assert_eq!(read(&file, true), written, "what is written comes back");
    let place = |low, high| usize::from(u16::from_le_bytes([low, high])) % (file.len() + 1);
    let (cut, at) = (place(cut, cut_high), place(at, at_high));
    let whole = |length: usize| written.partition_point(|(_, _, end)| *end <= length as u64);
    assert_eq!(read(&file[..cut], true), written[..whole(cut)], "whatever is whole before a cut");
    // Blocks that the file system has given to the file and not filled.
    let mut unfilled = file[..cut].to_vec();
    unfilled.resize(file.len() + 16, 0);
    assert_eq!(read(&unfilled, true), written[..whole(cut)], "whatever is whole before zeros");
    if let Some(byte) = file.get_mut(at)
        && mask != 0
    {
        *byte ^= mask;
        assert_eq!(read(&file, true), written[..whole(at)], "whatever is whole before the damage");
    }
});

//! Blobs whose bytes are elements: NDJSON, and frames.
//!
//! The first byte says which, and how many bytes are read at a time; the rest is the blob.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::frames::{self, Frame, kind};
use serde_json::value::RawValue;
use server::fuzzing::elements_of_blob;

/// What comes in one piece, and larger than any input that is made from small ones.
const MOST: usize = 64 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((how, blob)) = data.split_first() else { return };
    if blob.len() > MOST {
        return;
    }
    let (are_frames, nested, at_a_time) = (how & 1 == 1, how & 2 == 2, usize::from(how >> 2) + 1);
    let taken = elements_of_blob(blob, are_frames, nested, at_a_time);
    assert_eq!(taken, elements_of_blob(blob, are_frames, nested, MOST), "however it is read");
    let Ok(taken) = taken else { return };
    assert_eq!(taken.total, taken.payloads.len() as u64);
    if nested {
        assert_eq!(taken.groups.iter().sum::<u64>(), taken.total, "each is in one outer element");
        assert!(taken.outer_names.is_empty() || taken.outer_names.len() == taken.groups.len());
    } else {
        assert!(taken.names.is_empty() || taken.names.len() == taken.payloads.len());
    }
    if are_frames {
        let frames: Vec<Frame<'_>> =
            frames::iterate(blob).collect::<Result<_, _>>().expect("all frames are whole");
        let of = |kind| frames.iter().filter(move |frame| frame.kind == kind);
        assert!(taken.payloads.iter().eq(of(kind::VALUE).map(|frame| frame.payload)));
        let keys = of(kind::KEY).map(|frame| String::from_utf8_lossy(frame.payload));
        let names = taken.names.iter().map(|name| serde_json::from_slice::<String>(name));
        assert!(names.map(|name| name.expect("a name is a string")).eq(keys), "each names one");
        assert_eq!(taken.groups.len(), of(kind::GROUP).count());
    } else {
        for payload in &taken.payloads {
            serde_json::from_slice::<&RawValue>(payload).expect("each element is JSON");
        }
        let lines = blob.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        if nested {
            assert_eq!(taken.groups.len(), lines.len(), "a line is an outer element");
        } else {
            assert_eq!(taken.payloads, lines, "a line is an element");
        }
    }
});

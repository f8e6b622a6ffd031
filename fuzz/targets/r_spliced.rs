//! Serializations that R may never have written, joined into one list and taken apart again.

#![no_main]

use agent::rserial::{self, Writer};
use libfuzzer_sys::fuzz_target;

/// What the joined list holds before and behind what is tried.
const NEIGHBOUR: i32 = 7;

fuzz_target!(|serialized: &[u8]| {
    let mut writer = Writer::new();
    writer.list(3);
    writer.integer(NEIGHBOUR);
    // As an element that cannot be joined: it then is a raw vector.
    let is_joined = rserial::splice(&mut writer, serialized);
    if !is_joined {
        writer.raw(serialized);
    }
    writer.integer(NEIGHBOUR);
    let list = writer.into_bytes();
    let items = rserial::read(&list).expect("what is joined is sound").into_list();
    let items = items.expect("it is a list");
    assert_eq!(items.len(), 3, "it is one item");
    assert!([&items[0], &items[2]].iter().all(|item| item.as_integer() == Some(NEIGHBOUR)));

    let Some(apart) = rserial::take_apart(&list) else { return };
    assert_eq!(apart.len(), 3);
    if !is_joined {
        assert_eq!(apart[1], serialized, "a raw vector is what it holds");
    }
    for item in [&apart[0], &apart[2]] {
        let item = rserial::read(item).expect("what is taken apart is sound");
        assert_eq!(item.as_integer(), Some(NEIGHBOUR));
    }
    // What a worker says may be anything.
    if let Some(apart) = rserial::take_apart(serialized) {
        assert!(apart.len() <= serialized.len() / 4);
        let most = 24 * serialized.len();
        assert!(apart.iter().map(Vec::len).sum::<usize>() <= most, "it grows without bound");
    }
});

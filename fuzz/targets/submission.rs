//! Bodies of submissions: refused with the right status, or taken as they were sent.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use server::fuzzing::{Bodies, Taken};
use tempfile::TempDir;

static SERVER: LazyLock<(Bodies, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    (Bodies::new(folder.path()).expect("the folder can be used"), folder)
});

/// What of a submission says how its elements are taken.
#[derive(Deserialize)]
struct Job<'a> {
    #[serde(borrow)]
    elements: Option<&'a RawValue>,
    #[serde(default)]
    options: Options,
}

#[derive(Default, Deserialize)]
struct Options {
    encoding: Option<String>,
}

fuzz_target!(|body: &[u8]| {
    if !body.starts_with(b"{") {
        check_names(body);
    }
    let taken = SERVER.0.submission(body);
    match &taken {
        Ok(taken) => check(taken, body),
        Err(400) => assert!(serde_json::from_slice::<IgnoredAny>(body).is_err(), "it was JSON"),
        Err(status) => assert_eq!(*status, 422, "whatever is sent is no fault of the server's"),
    }
    if serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        let batch = [b"{\"jobs\":[", body, b"]}"].concat();
        assert_eq!(SERVER.0.batch(&batch), taken.map(|taken| vec![taken]), "a batch of one");
    }
});

/// Names of elements, of one letter each so that some stand twice; as mutations of JSON hardly bring
/// about.
fn check_names(letters: &[u8]) {
    let letters = &letters[..letters.len().min(8)];
    let member = |byte: &u8| format!("\"{}\":[]", char::from(b'a' + byte % 16));
    let members = letters.iter().map(member).collect::<Vec<_>>().join(",");
    let head = "{\"runtime\":\"python\",\"function\":\"f\",\"elements\":";
    let body = format!("{head}{{{members}}}}}");
    let names: BTreeSet<u8> = letters.iter().map(|byte| byte % 16).collect();
    match SERVER.0.submission(body.as_bytes()) {
        Ok(taken) => {
            assert_eq!(names.len(), letters.len(), "a name stands twice");
            check(&taken, body.as_bytes());
        }
        Err(status) => assert!(status == 422 && names.len() < letters.len(), "{body} is right"),
    }
}

fn check(taken: &Taken, body: &[u8]) {
    let job: Job<'_> = serde_json::from_slice(body).expect("what is taken is JSON");
    let Some(elements) = job.elements else {
        return assert_eq!(taken.total, 1, "a call is one element");
    };
    if taken.payloads.is_empty() && taken.groups.is_empty() {
        // A range, or none.
        return;
    }
    let is_json = job.options.encoding.is_none_or(|encoding| encoding == "json");
    assert_eq!(taken.payloads.len() as u64, taken.total);
    if taken.groups.is_empty() {
        return check_level(elements, &taken.names, &taken.payloads, is_json);
    }
    assert_eq!(taken.groups.iter().sum::<u64>(), taken.total);
    let mut rest = &taken.payloads[..];
    let sizes = taken.groups.iter().map(|n| usize::try_from(*n).expect("it is in memory"));
    let groups: Vec<&[Bytes]> = sizes.map(|n| rest.split_off(..n).expect("it is there")).collect();
    for (outer, group) in items(elements, &taken.outer_names).into_iter().zip(groups) {
        check_level(outer, &[], group, is_json);
    }
}

/// Checks that these are the elements that were sent, in their order.
fn check_level(sent: &RawValue, names: &[Bytes], payloads: &[Bytes], is_json: bool) {
    let sent = items(sent, names);
    assert_eq!(sent.len(), payloads.len());
    if is_json {
        for (sent, payload) in sent.into_iter().zip(payloads) {
            assert_eq!(sent.get().as_bytes(), payload, "an element is stored as it was sent");
        }
    }
}

/// The items of an array; or those of an object, in the order of these names.
fn items<'a>(of: &'a RawValue, names: &[Bytes]) -> Vec<&'a RawValue> {
    if of.get().starts_with('[') {
        assert!(names.is_empty());
        return serde_json::from_str(of.get()).expect("it is an array");
    }
    let by_name: BTreeMap<String, &RawValue> =
        serde_json::from_str(of.get()).expect("it is an object");
    assert_eq!(by_name.len(), names.len());
    let name = |name: &Bytes| serde_json::from_slice::<String>(name).expect("a name is a string");
    names.iter().map(|text| by_name[&name(text)]).collect()
}

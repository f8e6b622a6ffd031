//! Queries of lists, with their cursors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use server::fuzzing::list_query;

fuzz_target!(|query: &str| {
    match list_query(query) {
        Ok(again) => assert_eq!(list_query(&again), Ok(again), "a cursor comes back as it was"),
        Err(status) => assert_eq!(status, 422, "a refusal names the parameter"),
    }
});

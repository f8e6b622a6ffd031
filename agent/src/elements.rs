//! How the elements of a lease are said to workers: what their bytes are, and for the variant
//! `imap` what each is called by.

use protocol::RangeSet;
use protocol::agent::{Input, Lease, Outer};
use protocol::job::{Encoding, Options, Variant};

use crate::chunk;
use crate::runtimes;

/// What all elements of a lease have in common.
#[derive(Debug)]
pub struct Elements {
    form: Form,
    /// For the variant `imap`.
    keys: Option<Keys>,
}

/// What the bytes of an element are.
#[derive(Clone, Copy, Debug)]
enum Form {
    Nothing,
    Json,
    Encoded,
}

/// What elements are called by.
#[derive(Debug)]
struct Keys {
    ranges: RangeSet,
    /// In the order of the ranges; none if elements have no names.
    names: Vec<String>,
    outer: Option<Outer>,
}

impl Elements {
    /// Those of `lease`, whose job has these options.
    pub fn new(lease: &Lease, options: &Options) -> Self {
        let form = match (&lease.input, options.encoding) {
            (Input::Nothing, _) => Form::Nothing,
            // Integers of a range are JSON whatever the encoding.
            (Input::Range { .. }, _) | (_, Encoding::Json) => Form::Json,
            _ => Form::Encoded,
        };
        let keys = (options.variant == Variant::Imap).then(|| Keys {
            ranges: lease.ranges.clone(),
            names: lease.names.clone(),
            outer: lease.outer.clone(),
        });
        Self { form, keys }
    }

    /// An element as a runtime is told it.
    pub fn say<'a>(&'a self, element: &'a chunk::Element) -> runtimes::Element<'a> {
        let input = match self.form {
            Form::Nothing => runtimes::Input::Nothing,
            Form::Json => runtimes::Input::Json(&element.input),
            Form::Encoded => runtimes::Input::Encoded(&element.input),
        };
        let key = self.keys.as_ref().map(|keys| keys.of(element.index));
        runtimes::Element { index: element.index, input, key }
    }
}

impl Keys {
    fn of(&self, index: u64) -> runtimes::Key<'_> {
        let outer = self.outer.as_ref();
        runtimes::Key {
            index: index - outer.map_or(0, |outer| outer.first.min(index)),
            name: self.name(index),
            outer: outer.map(|outer| (outer.index, outer.name.as_deref())),
        }
    }

    fn name(&self, index: u64) -> Option<&str> {
        if self.names.is_empty() {
            return None;
        }
        let mut before = 0;
        for range in self.ranges.ranges() {
            if range.contains(index) {
                let position = usize::try_from(before + (index - range.0)).ok()?;
                return self.names.get(position).map(String::as_str);
            }
            before += range.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use protocol::{JobId, LeaseId, Range};

    use super::*;

    fn lease(input: Input) -> Lease {
        let mut ranges = RangeSet::from_range(Range(4, 9));
        ranges.remove(Range(6, 8));
        Lease {
            id: LeaseId::new(),
            job: JobId::new(),
            ranges,
            attempt: 1,
            slots: 1,
            width: 1,
            deaths: BTreeMap::new(),
            input,
            names: Vec::new(),
            outer: None,
        }
    }

    fn element(index: u64) -> chunk::Element {
        chunk::Element { index, input: Bytes::from_static(b"1") }
    }

    #[test]
    fn the_form_follows_the_input_and_the_encoding() {
        let options = |encoding| Options { encoding, ..Options::default() };
        let inline = || Input::Inline { lengths: vec![1; 3] };
        let element = element(4);
        for (input, encoding, expected) in [
            (Input::Nothing, Encoding::Rds, runtimes::Input::Nothing),
            (Input::Range { from: 0 }, Encoding::Pickle, runtimes::Input::Json(b"1")),
            (inline(), Encoding::Json, runtimes::Input::Json(b"1")),
            (inline(), Encoding::Bytes, runtimes::Input::Encoded(b"1")),
        ] {
            let elements = Elements::new(&lease(input), &options(encoding));
            assert_eq!(elements.say(&element).input, expected);
        }
    }

    #[test]
    fn keys_are_for_imap_and_skip_the_gaps_of_a_lease() {
        let imap = Options { variant: Variant::Imap, ..Options::default() };
        let mut lease = lease(Input::Range { from: 0 });
        lease.names = ["four", "five", "eight"].map(str::to_owned).into();
        let elements = Elements::new(&lease, &imap);
        for (index, name) in [(4, "four"), (5, "five"), (8, "eight")] {
            assert_eq!(elements.say(&element(index)).key.unwrap().name, Some(name));
        }
        assert_eq!(Elements::new(&lease, &Options::default()).say(&element(4)).key, None);
    }

    #[test]
    fn nested_keys_count_from_their_outer_element() {
        let imap = Options { variant: Variant::Imap, ..Options::default() };
        let mut lease = lease(Input::Range { from: 0 });
        lease.outer = Some(Outer { index: 2, first: 4, name: Some("gear".into()) });
        let elements = Elements::new(&lease, &imap);
        let element = element(8);
        let key = elements.say(&element).key.unwrap();
        assert_eq!(key, runtimes::Key { index: 4, name: None, outer: Some((2, Some("gear"))) });
    }
}

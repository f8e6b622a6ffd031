//! Structs that are read from JSON's objects and from nothing else. What serde derives takes an
//! array as well, as the fields in the order in which they are declared, which no contract promises.
//!
//! A struct opts in by `#[serde(remote = "Self")]`, which makes of what is derived plain functions,
//! and by [`only_objects`], which calls them.

use serde::Deserializer;
use serde::de::Visitor;

/// A deserializer that finds a struct in an object only.
pub struct OnlyObjects<D>(pub D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for OnlyObjects<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Has these structs, each with `#[serde(remote = "Self")]`, read from objects only.
macro_rules! only_objects {
    ($($name:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                // The derived function of the struct itself, which goes before the trait's.
                Self::deserialize($crate::object::OnlyObjects(from))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, to)
            }
        }
    )+};
}
pub(crate) use only_objects;

#[cfg(test)]
mod tests {
    use crate::agent::{Heartbeat, Report};
    use crate::job::{BlobRef, Level, Options, SubmitJob};

    #[test]
    fn an_array_of_the_fields_is_no_struct() {
        let refusal = |error: Option<serde_json::Error>| error.map(|e| e.to_string());
        for said in [
            refusal(serde_json::from_str::<SubmitJob>(r#"[null, "python", "1"]"#).err()),
            refusal(serde_json::from_str::<Options>("[]").err()),
            refusal(serde_json::from_str::<Level>(r#"["cluster", 1]"#).err()),
            refusal(serde_json::from_str::<BlobRef>(r#"["sha256:00"]"#).err()),
            refusal(serde_json::from_str::<Report>("[[]]").err()),
            refusal(serde_json::from_str::<Heartbeat>("[[], false, 0]").err()),
        ] {
            let said = said.expect("it is refused");
            assert!(said.contains("invalid type: sequence, expected struct"), "{said}");
        }
    }

    #[test]
    fn an_object_is_read_and_written_as_ever() {
        let job = r#"{"runtime": "r", "function": "~ 1", "elements": [1], "options": {"retries": 0},
            "plan": [{"strategy": "cluster"}], "args": {"x": [1, 2]}}"#;
        let job: SubmitJob = serde_json::from_str(job).unwrap();
        let written = serde_json::to_value(&job).unwrap();
        assert_eq!(written["args"]["x"], serde_json::json!([1, 2]));
        assert_eq!(written["plan"], serde_json::json!([{"strategy": "cluster"}]));
        assert_eq!(job.options.retries, 0);
    }
}

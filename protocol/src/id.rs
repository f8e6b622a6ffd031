//! Ids: UUIDs of version 7, so that they sort by the time they were made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid, example = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42")]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new id from the wall clock and 74 random bits.
            #[expect(clippy::new_without_default, reason = "an id is made on purpose, never by default")]
            #[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

id! {
    /// Names a job.
    JobId
}
id! {
    /// Names one agent process: made at its start, so that a restarted agent is another agent.
    AgentId
}
id! {
    /// Names one grant of a chunk to one agent. A chunk that is granted again gets another id, so
    /// the id is also the token that fences reports: whoever holds an outdated one changes nothing.
    LeaseId
}

id! {
    /// Names a token, which it is not: who knows it may do nothing by it.
    TokenId
}
id! {
    /// Names a database, and so what is asked of any of its servers.
    DatabaseId
}

/// A text that is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidId;

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID such as 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42")
    }
}

impl std::error::Error for InvalidId {}

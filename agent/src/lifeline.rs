//! What an agent and the supervisor of one of its workers say to one another.
//!
//! The lifeline is a socket: the supervisor's standard input. The agent writes single bytes
//! ([`Order`]), the supervisor lines ([`Status`]). An agent that dies closes its end, and that too
//! is an order: kill everything.

use std::fmt;

/// What an agent asks of a supervisor: one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Kill the worker and all that came of it.
    Kill,
    /// Kill all that came of the worker, but not the worker.
    Sweep,
}

impl Order {
    /// The byte that stands for it.
    pub fn byte(self) -> u8 {
        match self {
            Self::Kill => b'K',
            Self::Sweep => b'S',
        }
    }

    /// The order of that byte.
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Kill, Self::Sweep].into_iter().find(|order| order.byte() == byte)
    }
}

/// What a supervisor tells its agent: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The worker runs, under this process id.
    Started(i32),
    /// A sweep is over.
    Swept,
    /// The worker is gone, and all that came of it.
    Ended(Ended),
}

/// How a worker came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It never started: what the system said.
    NotStarted(String),
    /// Its supervisor vanished without a word; the kernel has killed the worker.
    Lost,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(pid) => write!(f, "started {pid}"),
            Self::Swept => f.write_str("swept"),
            Self::Ended(Ended::Exited(status)) => write!(f, "exited {status}"),
            Self::Ended(Ended::Killed(signal)) => write!(f, "killed {signal}"),
            Self::Ended(Ended::NotStarted(why)) => {
                write!(f, "not-started {}", why.replace('\n', " "))
            }
            Self::Ended(Ended::Lost) => f.write_str("lost"),
        }
    }
}

impl Status {
    /// The status that a line, without its end, stands for.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "started" => rest.parse().ok().map(Self::Started),
            "swept" => Some(Self::Swept),
            "exited" => rest.parse().ok().map(|status| Self::Ended(Ended::Exited(status))),
            "killed" => rest.parse().ok().map(|signal| Self::Ended(Ended::Killed(signal))),
            "not-started" => Some(Self::Ended(Ended::NotStarted(rest.to_owned()))),
            "lost" => Some(Self::Ended(Ended::Lost)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_line() {
        for status in [
            Status::Started(17),
            Status::Swept,
            Status::Ended(Ended::Exited(3)),
            Status::Ended(Ended::Killed(11)),
            Status::Ended(Ended::NotStarted("No such file".to_owned())),
            Status::Ended(Ended::Lost),
        ] {
            assert_eq!(Status::parse(&status.to_string()), Some(status));
        }
        assert_eq!(Status::parse("started soon"), None);
    }

    #[test]
    fn an_order_survives_its_byte() {
        for order in [Order::Kill, Order::Sweep] {
            assert_eq!(Order::of(order.byte()), Some(order));
        }
        assert_eq!(Order::of(b'\n'), None);
    }
}

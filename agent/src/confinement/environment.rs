//! Which variables of the agent's environment workers get: all but its secrets and settings.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

/// Settings and secrets of this program, whatever they are called.
const OWN: &str = "FARROW_";

/// Secrets of the process that the agent is, or shares with a server, and what is meant for it alone.
const KEPT_BACK: [&str; 21] = [
    // Keys of the storage for blobs. What the instance itself may do is not touched by that.
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_CLIENT_SECRET",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    // Of the database.
    "DATABASE_URL",
    "PGPASSWORD",
    // What systemd gives to a service.
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What leads to folders and sockets of the agent's user, and so is of no use to another one.
const OF_ANOTHER_USER: [&str; 12] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "KRB5CCNAME",
    "MAIL",
    "SSH_AUTH_SOCK",
    "TMP",
    "TEMP",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// The variables that workers get of `all`: those in `passed`, whatever they are, and else those that
/// are nobody's secret. `is_another_user` is whether they run as another user than the agent.
pub fn kept(
    all: impl Iterator<Item = (OsString, OsString)>,
    passed: &BTreeSet<OsString>,
    is_another_user: bool,
) -> Vec<(OsString, OsString)> {
    let is_kept = |name: &OsStr| {
        let is_of_the_agent = name.as_encoded_bytes().starts_with(OWN.as_bytes());
        let is_in = |names: &[&str]| names.iter().any(|kept_back| name == *kept_back);
        passed.contains(name)
            || !(is_of_the_agent || is_in(&KEPT_BACK) || is_another_user && is_in(&OF_ANOTHER_USER))
    };
    all.filter(|(name, _)| is_kept(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(passed: &[&str], is_another_user: bool) -> Vec<String> {
        let all = [
            "PATH",
            "FARROW_TOKEN",
            "FARROW_ANYTHING",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_REGION",
            "PGPASSWORD",
            "NOTIFY_SOCKET",
            "XDG_CACHE_HOME",
        ];
        let all = all.map(|name| (OsString::from(name), OsString::from("x")));
        let passed = passed.iter().map(OsString::from).collect();
        let kept = kept(all.into_iter(), &passed, is_another_user);
        kept.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    }

    #[test]
    fn secrets_and_settings_are_kept_back() {
        assert_eq!(names(&[], false), ["PATH", "AWS_REGION", "XDG_CACHE_HOME"]);
        assert_eq!(names(&[], true), ["PATH", "AWS_REGION"]);
    }

    #[test]
    fn what_is_passed_on_purpose_is_passed() {
        let passed = names(&["AWS_SECRET_ACCESS_KEY", "FARROW_ANYTHING", "ABSENT"], false);
        let expected =
            ["PATH", "FARROW_ANYTHING", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "XDG_CACHE_HOME"];
        assert_eq!(passed, expected);
    }
}

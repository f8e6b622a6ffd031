//! The variables that stand for flags.

use std::env;
use std::ffi::OsStr;

use clap::Command;

/// Lets empty variables count as unset, as everywhere in a shell: `FARROW_TOKEN_FILE= farrow jobs`
/// is how one runs a command without a variable that is exported.
pub fn without_empty(command: Command) -> Command {
    without(command, |name| env::var_os(name).is_some_and(|value| value.is_empty()))
}

fn without(command: Command, is_empty: fn(&OsStr) -> bool) -> Command {
    let command = command.mut_args(|argument| match argument.get_env() {
        Some(name) if is_empty(name) => argument.env(None::<&str>),
        _ => argument,
    });
    command.mut_subcommands(|command| without(command, is_empty))
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn empty_variables_are_unset_in_all_commands() {
        let flag = |name: &'static str, variable: &'static str| Arg::new(name).env(variable);
        let inner = Command::new("inner").arg(flag("a", "FARROW_A")).arg(flag("b", "FARROW_B"));
        let command = Command::new("outer").arg(flag("c", "FARROW_A")).subcommand(inner);
        let command = without(command, |name| name == "FARROW_A");
        let variables = |command: &Command| -> Vec<_> {
            command.get_arguments().map(|argument| argument.get_env().is_some()).collect()
        };
        assert_eq!(variables(&command), [false]);
        assert_eq!(variables(command.find_subcommand("inner").unwrap()), [false, true]);
    }
}

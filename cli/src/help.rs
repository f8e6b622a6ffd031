//! The first page of help: the commands, grouped by what one wants to do.

use clap::Command;
use clap::builder::styling::Style;

use crate::failure::EXIT_CODES;

/// The commands under the words that lead to them.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Set up", &["up", "server", "agent"]),
    ("Submit", &["map", "call", "retry"]),
    ("Follow", &["status", "logs", "outcomes", "artifacts", "value"]),
    ("End", &["cancel", "delete", "drain"]),
    ("Look around", &["jobs", "agents", "blobs"]),
    ("Let in", &["token", "audit"]),
];

const TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}{after-help}";

/// Lets the first page of help show commands in groups.
pub fn grouped(command: Command) -> Command {
    let page = page(&command);
    command.help_template(TEMPLATE).after_help(page)
}

fn page(command: &Command) -> String {
    // As clap writes its own headings; it takes this away where colours are not wanted.
    let bold = Style::new().bold().underline();
    let mut page = String::new();
    for (title, names) in GROUPS {
        page.push_str(&format!("{bold}{title}:{bold:#}\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            page.push_str(&format!("  {name:<9} {about}\n"));
        }
        page.push('\n');
    }
    page.push_str(
        "`farrow COMMAND --help` says more, with examples. Nearly every flag is also a variable, which its \
         help names.\n\n",
    );
    page + EXIT_CODES
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn each_command_is_in_one_group_and_says_what_it_does() {
        let command = Cli::command();
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut shown: Vec<_> = shown.map(Command::get_name).collect();
        grouped.sort_unstable();
        shown.sort_unstable();
        assert_eq!(grouped, shown);
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:"), "{} has no examples", command.get_name());
            let widest = help.lines().map(|line| line.chars().count()).max();
            assert!(
                widest <= Some(100),
                "the help of {} is wider than its page",
                command.get_name()
            );
        }
        let page = page(&command);
        assert!(
            page.contains("  map       Run a function over elements and print its value\n"),
            "{page}"
        );
    }
}

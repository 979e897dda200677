//! `ringway completions` and `ringway man`: the command line, told to shells and to `man`; and to
//! the reference of the book.
//!
//! In goes the definition that also parses; out comes text in the form that they read. Nothing here
//! knows any single command.

use std::fmt::Write as _;

use clap::Arg;
use clap_complete::Shell;

use crate::cli::args::definition;

use super::output::Failure;

pub(super) fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut definition(), "ringway", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) fn manual() -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(definition()).render(&mut text).map_err(Failure::unable)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The commands and their flags in Markdown.
pub fn reference() -> String {
    let mut command = definition();
    command.build();
    let mut text = String::from("### ringway\n\nWithout a command, it runs the proxy.\n\n");
    arguments(&mut text, command.get_arguments());
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let about = command.get_long_about().or(command.get_about()).cloned().unwrap_or_default();
        let end = if about.to_string().ends_with('?') { "" } else { "." };
        let put = writeln!(text, "\n### ringway {}\n\n{about}{end}\n", command.get_name());
        put.expect("a String takes any text");
        // Those of all commands stand with `ringway` itself.
        arguments(&mut text, command.get_arguments().filter(|it| !it.is_global_set()));
    }
    text
}

fn arguments<'a>(text: &mut String, all: impl Iterator<Item = &'a Arg>) {
    let mut head = "| flag | what it does |\n|---|---|\n";
    let is_shown = |arg: &&Arg| !matches!(arg.get_id().as_str(), "help" | "version");
    for arg in all.filter(is_shown).filter(|arg| !arg.is_hide_set()) {
        let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
        let names = arg.get_value_names().unwrap_or_default().join(" ");
        let value = if arg.get_action().takes_values() { names.as_str() } else { "" };
        let name = match arg.get_long() {
            Some(long) => format!("{short}`{}`", format!("--{long} {value}").trim_end()),
            None => format!("{short}`{value}`"),
        };
        let help = arg.get_long_help().or(arg.get_help()).cloned().unwrap_or_default().to_string();
        let possible = arg.get_possible_values();
        let choices: Vec<_> = possible.iter().map(|it| format!("`{}`", it.get_name())).collect();
        let choices = if choices.is_empty() || !arg.get_action().takes_values() {
            String::new()
        } else {
            format!(" ({})", choices.join(", "))
        };
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
        let default = if defaults.is_empty() || !arg.get_action().takes_values() {
            String::new()
        } else {
            format!(" [default: {}]", defaults.join(", "))
        };
        let help = format!("{help}{choices}{default}").replace('|', "\\|").replace('\n', " ");
        let name = name.replace('|', "\\|");
        writeln!(text, "{head}| {name} | {help} |").expect("a String takes any text");
        head = "";
    }
}

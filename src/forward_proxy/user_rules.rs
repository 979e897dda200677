//! Rules for some users: `[[forward.rule]]`, compiled once per configuration.
//!
//! In: the rules in file order, with the users and groups that they name, then a user and a
//! target. Out: what the first rule says that is for this user and fits this target. What else a
//! target needs is for `policy`; nothing here logs anybody in.

use crate::config::{ForwardConfig, RuleAction};

use super::groups::Groups;
use super::rules::{Entry, Known, RuleSet};
use super::users::{UserId, Users};

/// In file order.
#[derive(Debug, Default)]
pub(crate) struct UserRules {
    rules: Vec<UserRule>,
    /// Whom a rule or a group names, and who is none of the users. A line each.
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug)]
struct UserRule {
    who: Who,
    targets: RuleSet,
    is_allowed: bool,
}

#[derive(Debug)]
enum Who {
    Everybody,
    /// Whether it is for a user, by index.
    Users(Box<[bool]>),
}

/// What the rules say of a target.
#[derive(Clone, Copy)]
pub(super) enum Ruling<'r> {
    Denied(&'r Entry),
    Allowed {
        rule: &'r Entry,
        /// Whether one of its targets that fit names the port.
        names_port: bool,
    },
    /// It takes the address to tell.
    Later,
    /// No rule is about it.
    Silent,
}

impl UserRules {
    /// `forward` has the rules of all files in place of their names.
    pub(crate) fn read(forward: &ForwardConfig, users: Option<&Users>) -> Result<Self, String> {
        let groups = Groups::read(forward)?;
        let mut all = Self::default();
        for (index, rule) in forward.rules.iter().enumerate() {
            let mut names: Vec<(&str, String)> = Vec::new();
            let own = rule.users.iter().map(|user| (user.as_str(), format!("rule[{index}]")));
            names.extend(own);
            for group in &rule.groups {
                let members = groups.members(group).ok_or_else(|| {
                    format!(
                        "forward.rule[{index}].groups: there is no group {group:?}, expected one \
                         of {}; name it in forward.groups or forward.groups_file",
                        groups.names()
                    )
                })?;
                names.extend(members.map(|member| (member, format!("the group {group:?}"))));
            }
            let who = if rule.users.is_empty() && rule.groups.is_empty() {
                Who::Everybody
            } else {
                Who::Users(all.named(names, users))
            };
            all.rules.push(UserRule {
                who,
                targets: RuleSet::new(&format!("rule[{index}]"), &rule.targets),
                is_allowed: rule.action == RuleAction::Allow,
            });
        }
        Ok(all)
    }

    fn named(&mut self, names: Vec<(&str, String)>, users: Option<&Users>) -> Box<[bool]> {
        let mut is_named = vec![false; users.map_or(0, Users::len)];
        for (name, place) in names {
            if let Some(user) = users.and_then(|users| users.find(name)) {
                is_named[user.index()] = true;
                continue;
            }
            let line = format!("{place} names {name:?}, who is not in forward.users_file");
            if !self.warnings.contains(&line) {
                self.warnings.push(line);
            }
        }
        is_named.into()
    }

    /// `host` is in lower case and has no dot of the root.
    pub(super) fn ruling(
        &self,
        host: &str,
        port: u16,
        user: Option<UserId>,
        known: Known,
    ) -> Ruling<'_> {
        // Whether a rule that allows would come first with the right address.
        let mut may_be_allowed = false;
        for UserRule { who, targets, is_allowed } in &self.rules {
            if !who.has(user) {
                continue;
            }
            let fitting = targets.first(host, port, known);
            let fitting = match (fitting, *is_allowed) {
                (Some(rule), true) if targets.holds(host, known, |rule| rule.takes(port)) => {
                    let names_port =
                        targets.holds(host, known, |rule| rule.takes(port) && rule.names_ports());
                    Some(Ruling::Allowed { rule, names_port })
                }
                (Some(rule), false) => Some(Ruling::Denied(rule)),
                _ => None,
            };
            match fitting {
                Some(_) if may_be_allowed => return Ruling::Later,
                Some(ruling) => return ruling,
                None => {}
            }
            may_be_allowed |= *is_allowed
                && matches!(known, Known::Later)
                && targets.of_networks().any(|rule| rule.takes(port));
        }
        if may_be_allowed { Ruling::Later } else { Ruling::Silent }
    }
}

impl Who {
    fn has(&self, user: Option<UserId>) -> bool {
        match self {
            Self::Everybody => true,
            Self::Users(named) => user.is_some_and(|user| named.get(user.index()) == Some(&true)),
        }
    }
}

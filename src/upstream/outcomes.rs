//! What exchanges and checks come to, and what becomes of a target by it.
//!
//! In go outcomes; out come changes of targets, and lines in the log. Who is asked next is not
//! decided here.

use std::sync::atomic::Ordering;

use super::target::{Change, Reason, Target};
use super::window::Ejection;
use super::{Member, Origin, Upstream};
use crate::config::Policy;
use crate::observe::events;
use crate::ring::clock;

impl Upstream {
    /// Whether it wants to know how exchanges end, and how long answers take.
    #[inline]
    pub(crate) fn listens(&self) -> bool {
        self.config.eject.is_some() || self.config.balance == Policy::P2cEwma
    }

    /// An exchange with the target with the number `number` has ended well, or not.
    pub(crate) fn hear(&self, number: usize, is_good: bool) {
        if let Some(config) = &self.config.eject
            && let Some(member) = self.member(number)
        {
            let now = clock::coarse_ms();
            let rules = Ejection::of(config);
            let may_eject = || self.may_eject(number, &rules);
            let change = member.target.answered(is_good, now, &rules, may_eject);
            self.announce(&member, change);
        }
    }

    /// Whether one more target may be passed over for its answers.
    fn may_eject(&self, own: usize, rules: &Ejection) -> bool {
        let roster = self.roster.borrow();
        let count = roster.members.len();
        let out =
            roster.members.iter().filter(|it| it.number() != own && !it.target.is_sound()).count();
        out + 1 < count && (out + 1) * 100 <= rules.at_most as usize * count
    }

    /// What answers have come to counts no longer where they are not judged.
    pub(super) fn pardon(&self, now_ms: u64) {
        for member in self.members().iter().filter(|member| !member.target.is_sound()) {
            let change = member.target.pardon(now_ms);
            self.announce(member, change);
        }
    }

    /// Passes over what takes much longer than the others.
    pub(crate) fn eject_slow(&self) {
        let Some(rules) = self.config.eject.as_ref().map(Ejection::of) else { return };
        let (members, now) = (self.members(), clock::coarse_ms());
        for member in &members {
            member.target.forgive(now);
        }
        if rules.slower == 0 {
            return;
        }
        let known =
            |member: &&Member| member.target.is_sound() && member.target.has_enough_samples();
        let mut known: Vec<&Member> = members.iter().filter(known).collect();
        known.sort_by_key(|member| member.target.latency_us());
        let Some(median) = known.get(known.len().saturating_sub(1) / 2) else { return };
        let most = median.target.latency_us().saturating_mul(rules.slower);
        let slowest = known.last().filter(|it| known.len() > 2 && it.target.latency_us() > most);
        if let Some(member) = slowest
            && self.may_eject(member.number(), &rules)
        {
            let change = member.target.eject(Reason::Slow, now, &rules);
            self.announce(member, change);
        }
    }

    /// The targets whose check is due.
    pub(super) fn due(&self, now_ms: u64) -> Vec<Member> {
        let roster = self.roster.borrow();
        let is_due = |member: &&Member| member.target.check_at_ms.load(Ordering::Relaxed) <= now_ms;
        roster.members.iter().filter(is_due).cloned().collect()
    }

    pub(super) fn out_by_checks(&self) -> Vec<Member> {
        let roster = self.roster.borrow();
        let is_out =
            |member: &&Member| !member.target.is_sound() && member.target.check() == Some(false);
        roster.members.iter().filter(is_out).cloned().collect()
    }

    /// Says what has become of a target.
    pub(crate) fn announce(&self, member: &Member, change: Option<Change>) {
        if let Some(change) = change {
            announce(self.name(), &member.origin, &member.target, &change);
        }
    }
}

/// Says what has become of a target, in words for an operator.
#[cold]
pub(crate) fn announce(upstream: &str, origin: &Origin, target: &Target, change: &Change) {
    let Some(unsaid) = target.may_say(clock::coarse_ms()) else { return };
    let (origin, address) = (origin.url.as_str(), &target.address);
    let what = match change {
        Change::Out(reason) => format!("passed over: {}", reason.name()),
        Change::Back => "asked again".to_owned(),
    };
    events::note(events::Kind::Origin, &format!("{upstream} {origin} at {address} {what}"));
    match change {
        Change::Out(why) => {
            let reason = why.name();
            let detail = match why {
                Reason::Connect => target.connect_error().map(|(fault, _)| fault.name().into()),
                _ => target.check_error(),
            };
            let detail = detail.unwrap_or_default();
            tracing::warn!(upstream, origin, %address, reason, %detail, unsaid, "passed over");
        }
        Change::Back => tracing::info!(upstream, origin, %address, unsaid, "asked again"),
    }
}

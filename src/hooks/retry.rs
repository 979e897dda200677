//! Whether a request that failed is worth another attempt.
//!
//! In: what failed, how often, and what the route allows. Out: yes or no. The safety rules of the
//! exchange come first and are not decided here: nothing is repeated that an origin may have acted
//! upon, unless acting twice is harmless or the route says that it may. A budget keeps a failing
//! upstream from being asked twice as much as a healthy one: attempts beyond the first may be a
//! share of the requests, no more.

use super::hedge::Hedging;
use super::savings::Savings;
use crate::config::{Hedge, RetryConfig, RetryOn};
use crate::fault::Fault;

/// A retry policy with its budget.
#[derive(Debug)]
pub struct Retry {
    attempts: u32,
    on: RetryOn,
    budget: Savings,
    /// Requests are repeated whose second time may do what the first has done.
    pub repeats_all: bool,
    pub hedging: Option<Hedging>,
}

/// Why an attempt was no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryTrigger {
    Fault(Fault),
    /// An answer with this status.
    Status(u16),
    /// One of gRPC that is nothing but this status.
    Grpc(u8),
}

impl Retry {
    /// `upstreams` are those that requests may go to, by their indexes.
    pub(crate) fn new(config: &RetryConfig, upstreams: Vec<usize>) -> Self {
        let is_hedged = config.hedge != Hedge::Never;
        Self {
            attempts: config.attempts,
            on: config.on,
            budget: Savings::new(config.budget_percent),
            repeats_all: config.non_idempotent,
            hedging: is_hedged.then(|| Hedging::new(config, upstreams)),
        }
    }

    /// A request has come.
    pub fn earn(&self) {
        self.budget.earn();
        if let Some(hedging) = &self.hedging {
            hedging.earn();
        }
    }

    /// Whether to try again after `made` attempts, which the budget pays for if so.
    pub fn may_go_on(&self, trigger: RetryTrigger, made: u32) -> bool {
        let is_worth_it = match trigger {
            RetryTrigger::Status(status) => {
                self.on.unavailable && matches!(status, 502..=504) || self.on.statuses.has(status)
            }
            RetryTrigger::Grpc(status) => self.on.grpc.has(status),
            RetryTrigger::Fault(fault) => self.is_covered(fault),
        };
        made <= self.attempts && is_worth_it && self.budget.spend()
    }

    /// Whether answers of gRPC are looked into.
    pub(crate) fn reads_grpc(&self) -> bool {
        !self.on.grpc.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.hedging.as_ref().map_or(0, Hedging::bytes)
    }

    fn is_covered(&self, fault: Fault) -> bool {
        match fault {
            Fault::OriginRefused
            | Fault::OriginUnreachable
            | Fault::OriginConnectTimeout
            | Fault::OriginUnresolved
            | Fault::OriginResolveTimeout => self.on.connect,
            Fault::OriginClosed => self.on.reset,
            Fault::OriginReadTimeout => self.on.timeout,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(attempts: u32, on: RetryOn, budget_percent: u32) -> Retry {
        let config = RetryConfig { attempts, on, budget_percent, ..RetryConfig::default() };
        Retry::new(&config, vec![0])
    }

    fn all() -> RetryOn {
        RetryOn {
            connect: true,
            reset: true,
            timeout: true,
            unavailable: true,
            ..RetryOn::default()
        }
    }

    #[test]
    fn only_what_was_asked_for_is_tried_again() {
        let none = RetryOn::default();
        let table = [
            (RetryTrigger::Fault(Fault::OriginRefused), RetryOn { connect: true, ..none }),
            (RetryTrigger::Fault(Fault::OriginConnectTimeout), RetryOn { connect: true, ..none }),
            (RetryTrigger::Fault(Fault::OriginClosed), RetryOn { reset: true, ..none }),
            (RetryTrigger::Fault(Fault::OriginReadTimeout), RetryOn { timeout: true, ..none }),
            (RetryTrigger::Status(502), RetryOn { unavailable: true, ..none }),
            (RetryTrigger::Status(504), RetryOn { unavailable: true, ..none }),
            (RetryTrigger::Status(500), RetryOn { statuses: none.statuses.with(500), ..none }),
            (RetryTrigger::Status(429), RetryOn { statuses: none.statuses.with(429), ..none }),
            (RetryTrigger::Grpc(14), RetryOn { grpc: none.grpc.with(14), ..none }),
        ];
        for (trigger, on) in table {
            assert!(retry(1, on, 20).may_go_on(trigger, 1), "{trigger:?}");
            assert!(!retry(1, none, 20).may_go_on(trigger, 1), "{trigger:?}");
        }
        let one = RetryOn { statuses: none.statuses.with(503), ..none };
        assert!(!retry(1, one, 20).may_go_on(RetryTrigger::Status(502), 1));
        let never = [
            RetryTrigger::Status(500),
            RetryTrigger::Status(505),
            RetryTrigger::Status(404),
            RetryTrigger::Status(200),
            RetryTrigger::Fault(Fault::ClientGone),
            RetryTrigger::Fault(Fault::PoolTimeout),
            RetryTrigger::Fault(Fault::Stopping),
            RetryTrigger::Fault(Fault::Overloaded),
        ];
        for trigger in never {
            assert!(!retry(1, all(), 100).may_go_on(trigger, 1), "{trigger:?}");
        }
    }

    #[test]
    fn attempts_end() {
        let retry = retry(2, all(), 20);
        let tries = [1, 2, 3].map(|made| retry.may_go_on(RetryTrigger::Status(503), made));
        assert_eq!(tries, [true, true, false]);
    }

    #[test]
    fn a_failing_upstream_costs_a_share_of_the_requests_more() {
        let retry = retry(1, all(), 20);
        let mut attempts = 0;
        for _ in 0..1000 {
            retry.earn();
            attempts += u32::from(retry.may_go_on(RetryTrigger::Status(503), 1));
        }
        // 20 % of them, and what had been saved.
        assert_eq!(attempts, 200 + 9);
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let retry = retry(1, all(), 100);
        for _ in 0..1_000_000 {
            retry.earn();
        }
        let attempts = (0..100).filter(|_| retry.may_go_on(RetryTrigger::Status(503), 1)).count();
        assert_eq!(attempts, 10);
    }
}

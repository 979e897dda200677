//! Alerts: which figures are out of bounds, and since when.
//!
//! In go the figures of one evaluation; out come the alerts that begin and end with it. An alert
//! begins at its threshold and ends below 80 % of it, so that a figure that hovers does not ring
//! twice. The states are in `/health` and `/metrics`; each change is a log line and, if there is a
//! webhook, a message to it. Deciding does no I/O.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::units::unix_seconds;
use crate::config::{AlertsConfig, Config};

/// An alert ends below this share of its threshold.
const ENDS_BELOW: f64 = 0.8;

/// What an alert can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    ErrorRate,
    P95,
    Memory,
    PoolWait,
    /// The upstream with this index.
    UpstreamDown(usize),
    /// Origins of the upstream with this index.
    OriginsOut(usize),
    /// One of the certificates that clients are shown.
    Certificate,
    /// One of those that are ordered was not issued.
    Acme,
    /// A file of origins, or an engine.
    Discovery,
    OpenFiles,
}

impl Subject {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::P95 => "p95",
            Self::Memory => "memory_mb",
            Self::PoolWait => "pool_wait",
            Self::UpstreamDown(_) => "upstream_down",
            Self::OriginsOut(_) => "origins_out",
            Self::Certificate => "certificate",
            Self::Acme => "acme",
            Self::Discovery => "discovery",
            Self::OpenFiles => "open_files",
        }
    }
}

/// One evaluation's figures, in the units of the thresholds.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) error_rate: f64,
    pub(super) p95_seconds: f64,
    pub(super) memory_mb: f64,
    pub(super) pool_wait_seconds: f64,
    pub(super) open_files: f64,
    /// Some certificate needs to be looked after.
    pub(super) is_certificate_due: bool,
    /// Names for which the last order of a certificate has failed.
    pub(super) orders_failing: f64,
    /// Files of origins that are wrong, and engines that do not answer.
    pub(super) discovery_failing: f64,
    /// By upstream.
    pub(super) is_down: Vec<bool>,
    /// By upstream: how many are out by their checks or their answers.
    pub(super) out: Vec<usize>,
}

impl Figures {
    fn of(&self, subject: Subject) -> f64 {
        match subject {
            Subject::ErrorRate => self.error_rate,
            Subject::P95 => self.p95_seconds,
            Subject::Memory => self.memory_mb,
            Subject::PoolWait => self.pool_wait_seconds,
            Subject::UpstreamDown(index) => {
                f64::from(u8::from(self.is_down.get(index).copied().unwrap_or(false)))
            }
            Subject::OriginsOut(index) => self.out.get(index).copied().unwrap_or(0) as f64,
            Subject::Certificate => f64::from(u8::from(self.is_certificate_due)),
            Subject::Acme => self.orders_failing,
            Subject::Discovery => self.discovery_failing,
            Subject::OpenFiles => self.open_files,
        }
    }
}

/// One figure under watch.
#[derive(Clone, Debug)]
pub(super) struct Alarm {
    pub(super) subject: Subject,
    /// Empty unless the alert is about an upstream.
    pub(super) upstream: String,
    threshold: f64,
    value: f64,
    pub(super) since: Option<SystemTime>,
    /// How often it has begun.
    pub(super) begun: u64,
    /// Until then nobody is told of it.
    silent_until: Option<SystemTime>,
    /// Somebody has been told that it has begun.
    is_told: bool,
}

/// A change of an alarm, or its state, as JSON has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Notice {
    pub(super) alert: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) upstream: String,
    /// `begun` or `ended`.
    pub(super) state: &'static str,
    pub(super) value: f64,
    pub(super) threshold: f64,
    /// When it began, in seconds since 1970.
    pub(super) since: u64,
    /// When it ended, where it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<u64>,
    /// Where it is kept quiet: until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) silent_until: Option<u64>,
}

impl Alarm {
    fn new(subject: Subject, upstream: &str, threshold: f64) -> Self {
        let upstream = upstream.to_owned();
        Self {
            subject,
            upstream,
            threshold,
            value: 0.0,
            since: None,
            begun: 0,
            silent_until: None,
            is_told: false,
        }
    }

    /// Takes the figure of this evaluation and says whether that changes anything.
    fn step(&mut self, value: f64, now: SystemTime) -> Option<Notice> {
        self.value = value;
        self.silent_until = self.silent_until.filter(|until| *until > now);
        match self.since {
            None if value >= self.threshold => {
                self.since = Some(now);
                self.begun += 1;
            }
            Some(since) if value < self.threshold * ENDS_BELOW => {
                self.since = None;
                // Who has not heard of the beginning need not hear of the end.
                let was_told = std::mem::take(&mut self.is_told);
                let ended = Some(unix_seconds(now));
                return was_told.then(|| Notice { ended, ..self.notice("ended", since) });
            }
            _ => {}
        }
        // One that outlives its silence is told of then.
        let since = self.since.filter(|_| !self.is_told && self.silent_until.is_none())?;
        self.is_told = true;
        Some(self.notice("begun", since))
    }

    fn notice(&self, state: &'static str, since: SystemTime) -> Notice {
        Notice {
            alert: self.subject.name(),
            upstream: self.upstream.clone(),
            state,
            value: (self.value * 1_000.0).round() / 1_000.0,
            threshold: self.threshold,
            since: unix_seconds(since),
            ended: None,
            silent_until: self.silent_until.map(unix_seconds),
        }
    }
}

/// All figures that the configuration wants watched.
#[derive(Clone, Debug)]
pub(super) struct Alerts {
    alarms: Vec<Alarm>,
}

impl Alerts {
    pub(super) fn new(config: &Config) -> Self {
        let AlertsConfig {
            error_rate,
            p95,
            memory_mb,
            pool_wait,
            upstream_down,
            origins_out,
            certificates,
            discovery,
            open_files,
            ..
        } = &config.alerts;
        let mut alarms = vec![
            Alarm::new(Subject::ErrorRate, "", *error_rate),
            Alarm::new(Subject::P95, "", p95.as_secs_f64()),
            Alarm::new(Subject::Memory, "", *memory_mb as f64),
            Alarm::new(Subject::PoolWait, "", pool_wait.as_secs_f64()),
            Alarm::new(Subject::OpenFiles, "", *open_files),
        ];
        if *certificates && config.shows_certificates() {
            alarms.push(Alarm::new(Subject::Certificate, "", 1.0));
            if config.tls.acme.is_some() {
                alarms.push(Alarm::new(Subject::Acme, "", 1.0));
            }
        }
        if *discovery && config.discovers() {
            alarms.push(Alarm::new(Subject::Discovery, "", 1.0));
        }
        // A container that is ill is no failure of what was configured.
        let upstreams = || config.upstreams.iter().enumerate().filter(|(_, it)| !it.is_found);
        if *upstream_down {
            alarms.extend(upstreams().map(|(index, upstream)| {
                Alarm::new(Subject::UpstreamDown(index), &upstream.name, 1.0)
            }));
        }
        if *origins_out {
            let watched = upstreams().filter(|(_, it)| it.health.is_some() || it.eject.is_some());
            alarms.extend(watched.map(|(index, upstream)| {
                Alarm::new(Subject::OriginsOut(index), &upstream.name, 1.0)
            }));
        }
        alarms.retain(|alarm| alarm.threshold > 0.0);
        Self { alarms }
    }

    /// Watches what `config` wants watched; an alert that goes on stays begun.
    pub(super) fn follow(&mut self, config: &Config) {
        let mut next = Self::new(config);
        for alarm in &mut next.alarms {
            let kind = std::mem::discriminant(&alarm.subject);
            let mut before = self.alarms.iter();
            let before = before.find(|old| {
                std::mem::discriminant(&old.subject) == kind && old.upstream == alarm.upstream
            });
            if let Some(Alarm { since, begun, silent_until, is_told, .. }) = before {
                (alarm.since, alarm.begun) = (*since, *begun);
                (alarm.silent_until, alarm.is_told) = (*silent_until, *is_told);
            }
        }
        *self = next;
    }

    /// What begins and what ends with these figures.
    pub(super) fn step(&mut self, figures: &Figures, now: SystemTime) -> Vec<Notice> {
        let alarms = self.alarms.iter_mut();
        alarms.filter_map(|alarm| alarm.step(figures.of(alarm.subject), now)).collect()
    }

    pub(super) fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Keeps the alert called `name` quiet until then, of one upstream or of all. How many that
    /// concerns, or which there are.
    pub(super) fn silence(
        &mut self,
        name: &str,
        upstream: Option<&str>,
        until: SystemTime,
    ) -> Result<usize, String> {
        let mut count = 0;
        for alarm in &mut self.alarms {
            let is_meant = upstream.is_none_or(|upstream| alarm.upstream == upstream);
            if alarm.subject.name() == name && is_meant {
                alarm.silent_until = Some(until);
                count += 1;
            }
        }
        if count > 0 {
            return Ok(count);
        }
        let mut known: Vec<_> = self.alarms.iter().map(|alarm| alarm.subject.name()).collect();
        known.dedup();
        Err(format!("no such alert is watched, only: {}", known.join(", ")))
    }

    /// What is kept quiet, and until when.
    pub(super) fn silences(&self, now: SystemTime) -> Vec<Value> {
        let silent = self.alarms.iter().filter_map(|alarm| {
            let until = alarm.silent_until.filter(|until| *until > now)?;
            let until = unix_seconds(until);
            let upstream = Some(&alarm.upstream).filter(|name| !name.is_empty());
            Some(json!({ "alert": alarm.subject.name(), "upstream": upstream, "until": until }))
        });
        silent.collect()
    }

    /// Those that have begun and not ended.
    pub(super) fn active(&self) -> Vec<Notice> {
        let begun = |alarm: &Alarm| alarm.since.map(|since| alarm.notice("begun", since));
        self.alarms.iter().filter_map(begun).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::AcmeConfig;

    fn alerts(config: AlertsConfig) -> Alerts {
        Alerts::new(&Config { alerts: config, ..Config::default() })
    }

    /// The changes that a series of figures brings, as `begun` and `ended`.
    fn changes(alerts: &mut Alerts, values: &[f64], of: fn(f64) -> Figures) -> Vec<&'static str> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let steps = values.iter().flat_map(|value| alerts.step(&of(*value), now));
        steps.map(|notice| notice.state).collect()
    }

    fn error_rate(error_rate: f64) -> Figures {
        Figures { error_rate, ..Figures::default() }
    }

    #[test]
    fn an_alert_begins_at_its_threshold_and_ends_below_eighty_percent_of_it() {
        let table: [(&[f64], &[&str]); 5] = [
            (&[0.0, 0.049, 0.0], &[]),
            (&[0.05], &["begun"]),
            (&[0.05, 0.041, 0.05, 0.9, 0.0401], &["begun"]),
            (&[0.06, 0.039, 0.041, 0.0], &["begun", "ended"]),
            (&[1.0, 0.0, 1.0, 0.0], &["begun", "ended", "begun", "ended"]),
        ];
        for (values, expected) in table {
            let mut alerts = alerts(AlertsConfig::default());
            assert_eq!(changes(&mut alerts, values, error_rate), expected, "{values:?}");
        }
    }

    #[test]
    fn a_threshold_of_zero_is_off() {
        let off = AlertsConfig {
            error_rate: 0.0,
            p95: Duration::ZERO,
            memory_mb: 0,
            pool_wait: Duration::ZERO,
            upstream_down: false,
            open_files: 0.0,
            ..AlertsConfig::default()
        };
        let worst = Figures {
            error_rate: 1.0,
            p95_seconds: 1e9,
            memory_mb: 1e9,
            pool_wait_seconds: 1e9,
            open_files: 1.0,
            is_certificate_due: true,
            orders_failing: 1.0,
            discovery_failing: 1.0,
            is_down: vec![true],
            out: vec![1],
        };
        assert_eq!(alerts(off).step(&worst, SystemTime::now()), []);
        let mut all = alerts(AlertsConfig {
            p95: Duration::from_secs(1),
            memory_mb: 100,
            ..AlertsConfig::default()
        });
        let mut names: Vec<_> =
            all.step(&worst, SystemTime::now()).into_iter().map(|notice| notice.alert).collect();
        names.sort_unstable();
        let expected =
            ["error_rate", "memory_mb", "open_files", "p95", "pool_wait", "upstream_down"];
        assert_eq!(names, expected);
        assert_eq!(all.active().len(), 6);
        assert_eq!(all.step(&Figures::default(), SystemTime::now()).len(), 6);
        assert_eq!(all.active(), []);
        assert!(all.alarms().iter().all(|alarm| alarm.begun == 1));
    }

    #[test]
    fn orders_that_fail_are_an_alert_where_certificates_are_ordered() {
        let mut config = Config::default();
        config.server.listen_tls = config.server.listeners.clone();
        let failing = |count| Figures { orders_failing: count, ..Figures::default() };
        assert_eq!(changes(&mut Alerts::new(&config), &[1.0], failing), [] as [&str; 0]);
        config.tls.acme = Some(AcmeConfig::default());
        let mut alerts = Alerts::new(&config);
        assert_eq!(changes(&mut alerts, &[0.0, 2.0, 1.0, 0.0], failing), ["begun", "ended"]);
        config.alerts.certificates = false;
        assert_eq!(changes(&mut Alerts::new(&config), &[1.0], failing), [] as [&str; 0]);
    }

    #[test]
    fn a_silent_alert_is_listed_and_told_of_when_it_outlives_the_silence() {
        let mut alerts = alerts(AlertsConfig::default());
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let step = |alerts: &mut Alerts, value, second| -> Vec<&'static str> {
            let notices = alerts.step(&error_rate(value), at(second));
            notices.iter().map(|notice| notice.state).collect()
        };
        assert_eq!(alerts.silence("error_rate", None, at(100)), Ok(1));
        assert_eq!(alerts.silences(at(50)).len(), 1);
        assert_eq!(step(&mut alerts, 1.0, 10), [] as [&str; 0]);
        assert_eq!(alerts.active()[0].silent_until, Some(100));
        assert_eq!(step(&mut alerts, 0.0, 20), [] as [&str; 0]);
        assert_eq!(step(&mut alerts, 1.0, 30), [] as [&str; 0]);
        assert_eq!(step(&mut alerts, 1.0, 100), ["begun"]);
        assert_eq!(step(&mut alerts, 1.0, 110), [] as [&str; 0]);
        assert_eq!(step(&mut alerts, 0.0, 120), ["ended"]);
        assert!(alerts.silences(at(100)).is_empty());
        // What had been told of before ends aloud.
        assert_eq!(step(&mut alerts, 1.0, 130), ["begun"]);
        assert_eq!(alerts.silence("error_rate", None, at(200)), Ok(1));
        assert_eq!(step(&mut alerts, 0.0, 140), ["ended"]);
        assert!(alerts.silence("p9", None, at(1)).unwrap_err().contains("error_rate, "));
        assert!(alerts.silence("error_rate", Some("app"), at(1)).is_err());
    }

    #[test]
    fn an_upstream_that_is_down_is_named() {
        let mut alerts = alerts(AlertsConfig::default());
        let down = |is_down| Figures { is_down: vec![is_down > 0.5], ..Figures::default() };
        assert_eq!(changes(&mut alerts, &[0.0, 1.0, 1.0, 0.0], down), ["begun", "ended"]);
        changes(&mut alerts, &[1.0], down);
        let json = serde_json::to_value(alerts.active()).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "alert": "upstream_down", "upstream": "demo", "state": "begun",
                "value": 1.0, "threshold": 1.0, "since": 7,
            }])
        );
    }
}

//! How another server is told of an alert: its body, in the form that the server takes.
//!
//! In go notices; out come bytes of JSON. Nothing is sent here.

use serde::Serialize;
use serde_json::json;

use super::alerts::Notice;
use crate::config::WebhookFormat;
use crate::observe::date;

/// As JSON has it.
#[derive(Debug, Serialize)]
struct Message<'n> {
    source: &'static str,
    version: &'static str,
    #[serde(flatten)]
    notice: &'n Notice,
}

/// The body of one message. `host` is this machine's name.
pub(super) fn body(format: WebhookFormat, host: &str, notice: &Notice) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let body = match format {
        WebhookFormat::Json => serde_json::to_vec(&Message { source: "ringway", version, notice }),
        WebhookFormat::Slack => serde_json::to_vec(&json!({ "text": sentence(host, notice) })),
        WebhookFormat::Alertmanager => {
            let mut labels = json!({
                "alertname": format!("Ringway_{}", notice.alert), "source": "ringway",
                "alert": notice.alert, "instance": host,
            });
            if !notice.upstream.is_empty() {
                labels["upstream"] = notice.upstream.clone().into();
            }
            let mut alert = json!({
                "labels": labels,
                "annotations": { "summary": sentence(host, notice) },
                "startsAt": rfc3339(notice.since),
            });
            // Without one, it ends when it is not told again.
            if let Some(ended) = notice.ended {
                alert["endsAt"] = rfc3339(ended).into();
            }
            serde_json::to_vec(&[alert])
        }
    };
    // Cannot fail: a message is text and numbers.
    body.unwrap_or_default()
}

fn sentence(host: &str, notice: &Notice) -> String {
    let Notice { alert, upstream, value, threshold, since, ended, .. } = notice;
    let of = if upstream.is_empty() { String::new() } else { format!(" of upstream {upstream}") };
    match ended {
        None => format!(
            "ringway on {host}: {alert}{of} since {}: {value}, threshold {threshold}",
            rfc3339(*since)
        ),
        Some(ended) => format!(
            "ringway on {host}: {alert}{of} is over since {}: {value}, threshold {threshold}; it \
             began {}",
            rfc3339(*ended),
            rfc3339(*since)
        ),
    }
}

/// In UTC.
fn rfc3339(seconds: u64) -> String {
    let (year, month, day) = date::civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn told(format: WebhookFormat, ended: Option<u64>) -> Value {
        let state = if ended.is_some() { "ended" } else { "begun" };
        let upstream = "app".to_owned();
        let (value, threshold) = (1.0, 1.0);
        let notice = Notice {
            alert: "upstream_down",
            upstream,
            state,
            value,
            threshold,
            since: 60,
            ended,
            silent_until: None,
        };
        serde_json::from_slice(&body(format, "web1", &notice)).unwrap()
    }

    #[test]
    fn json_has_the_alert_with_its_end() {
        let told = |ended| told(WebhookFormat::Json, ended);
        assert_eq!(told(None).get("ended"), None);
        let ended = told(Some(120));
        assert_eq!((&ended["state"], &ended["ended"]), (&json!("ended"), &json!(120)));
        assert_eq!((&ended["since"], &ended["source"]), (&json!(60), &json!("ringway")));
    }

    #[test]
    fn slack_gets_a_sentence() {
        assert_eq!(
            told(WebhookFormat::Slack, None),
            json!({ "text": "ringway on web1: upstream_down of upstream app since \
                             1970-01-01T00:01:00Z: 1, threshold 1" })
        );
        let over = told(WebhookFormat::Slack, Some(120))["text"].to_string();
        assert!(over.contains("is over since 1970-01-01T00:02:00Z"), "{over}");
    }

    #[test]
    fn alertmanager_gets_labels_and_times() {
        let begun = told(WebhookFormat::Alertmanager, None);
        assert_eq!(
            begun[0]["labels"],
            json!({ "alertname": "Ringway_upstream_down", "source": "ringway",
                    "alert": "upstream_down", "instance": "web1", "upstream": "app" })
        );
        assert_eq!(begun[0]["startsAt"], "1970-01-01T00:01:00Z");
        assert_eq!(begun[0].get("endsAt"), None);
        let ended = told(WebhookFormat::Alertmanager, Some(120));
        assert_eq!(ended[0]["endsAt"], "1970-01-01T00:02:00Z");
    }
}

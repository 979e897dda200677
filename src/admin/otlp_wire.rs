//! Spans and metrics as OTLP has them: messages of opentelemetry-proto 1.x, in protobuf.
//!
//! In go spans, and metrics as samples; out come the bodies of requests. Only what is said is
//! written, by hand: it is a dozen messages that are never read, and a generator would bring more
//! than that. The tests decode them by the official definitions. Nothing is sent here.

use super::otlp_metrics::{Kind, Metric, Point};
use crate::observe::spans::{Attribute, Span, SpanKind};

/// A message that grows field by field.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

/// How the value of a field is written.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, kind: u32) {
        self.varint((field << 3 | kind).into());
    }

    fn number(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    fn fixed(&mut self, field: u32, value: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn double(&mut self, field: u32, value: f64) {
        self.fixed(field, value.to_bits());
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn part(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut part = Self::default();
        write(&mut part);
        self.bytes(field, &part.0);
    }

    /// Numbers of eight bytes, one behind the other.
    fn packed(&mut self, field: u32, values: impl Iterator<Item = u64>) {
        self.part(field, |part| {
            for value in values {
                part.0.extend_from_slice(&value.to_le_bytes());
            }
        });
    }

    /// A KeyValue.
    fn text_attribute(&mut self, field: u32, name: &str, value: &str) {
        self.part(field, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.part(2, |any| any.bytes(1, value.as_bytes()));
        });
    }

    fn attribute(&mut self, field: u32, name: &str, value: &Attribute) {
        match value {
            Attribute::Text(text) => self.text_attribute(field, name, text),
            Attribute::Number(number) => self.part(field, |pair| {
                pair.bytes(1, name.as_bytes());
                pair.part(2, |any| any.number(3, number.cast_unsigned()));
            }),
        }
    }

    /// Resource and InstrumentationScope, which spans and metrics have alike.
    fn put_resource(&mut self, service: &str) {
        self.part(1, |resource| {
            resource.text_attribute(1, "service.name", service);
            resource.text_attribute(1, "service.version", env!("CARGO_PKG_VERSION"));
            let process = i64::from(std::process::id());
            resource.attribute(1, "process.pid", &Attribute::Number(process));
        });
    }

    fn put_scope(&mut self) {
        self.part(1, |scope| {
            scope.bytes(1, env!("CARGO_PKG_NAME").as_bytes());
            scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
        });
    }
}

/// An ExportTraceServiceRequest.
pub(super) fn traces(service: &str, spans: &[Span]) -> Vec<u8> {
    let mut request = Message::default();
    request.part(1, |of_resource| {
        of_resource.put_resource(service);
        of_resource.part(2, |of_scope| {
            of_scope.put_scope();
            for span in spans {
                of_scope.part(2, |message| put_span(message, span));
            }
        });
    });
    request.0
}

fn put_span(message: &mut Message, span: &Span) {
    message.bytes(1, &span.trace.to_be_bytes());
    message.bytes(2, &span.id.to_be_bytes());
    if span.parent != 0 {
        message.bytes(4, &span.parent.to_be_bytes());
    }
    message.bytes(5, span.name.as_bytes());
    message.number(
        6,
        match span.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
    );
    message.fixed(7, span.began);
    message.fixed(8, span.ended);
    for (name, value) in &span.attributes {
        message.attribute(9, name, value);
    }
    for (name, time) in &span.events {
        message.part(11, |event| {
            event.fixed(1, *time);
            event.bytes(2, name.as_bytes());
        });
    }
    if span.is_error {
        // STATUS_CODE_ERROR.
        message.part(15, |status| status.number(3, 2));
    }
}

/// An ExportMetricsServiceRequest: what was counted since `began`, at `now`.
pub(super) fn metrics(service: &str, metrics: &[Metric], (began, now): (u64, u64)) -> Vec<u8> {
    let mut request = Message::default();
    request.part(1, |of_resource| {
        of_resource.put_resource(service);
        of_resource.part(2, |of_scope| {
            of_scope.put_scope();
            for metric in metrics {
                of_scope.part(2, |message| put_metric(message, metric, (began, now)));
            }
        });
    });
    request.0
}

/// AGGREGATION_TEMPORALITY_CUMULATIVE.
const CUMULATIVE: u64 = 2;

fn put_metric(message: &mut Message, metric: &Metric, times: (u64, u64)) {
    message.bytes(1, metric.name.as_bytes());
    message.bytes(2, metric.help.as_bytes());
    let field = match metric.kind {
        Kind::Gauge => 5,
        Kind::Counter => 7,
        Kind::Histogram => 9,
    };
    message.part(field, |data| {
        for point in &metric.points {
            data.part(1, |message| put_point(message, point, times));
        }
        if metric.kind != Kind::Gauge {
            data.number(2, CUMULATIVE);
        }
        if metric.kind == Kind::Counter {
            data.number(3, 1);
        }
    });
}

fn put_point(message: &mut Message, point: &Point, (began, now): (u64, u64)) {
    message.fixed(2, began);
    message.fixed(3, now);
    match &point.buckets {
        None => {
            message.double(4, point.value);
            for (name, value) in &point.labels {
                message.text_attribute(7, name, value);
            }
        }
        Some(buckets) => {
            message.fixed(4, buckets.count);
            message.double(5, point.value);
            message.packed(6, buckets.counts.iter().copied());
            message.packed(7, buckets.bounds.iter().map(|bound| bound.to_bits()));
            for (name, value) in &point.labels {
                message.text_attribute(9, name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_parts_are_written_as_protobuf_has_them() {
        let mut message = Message::default();
        message.number(1, 150);
        message.bytes(2, b"testing");
        message.part(3, |part| part.number(1, 150));
        message.packed(16, [1].into_iter());
        let expected: &[&[u8]] = &[
            &[0x08, 0x96, 0x01],
            &[0x12, 0x07],
            b"testing",
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
            &[0x82, 0x01, 0x08, 1, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(message.0, expected.concat());
    }
}

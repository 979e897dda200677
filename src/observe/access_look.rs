//! What all lines of an access log look like.
//!
//! In goes `[log]`, once; out come the pieces or the fields of a line, and the headers that have to
//! be noted for them. Nothing is written here.

use std::sync::Arc;

use crate::config::{AccessField, AccessFormat, AccessPiece, AccessTemplate, LogConfig};

/// What all lines of a log look like.
#[derive(Debug)]
pub(crate) struct Look {
    pub(super) shape: Shape,
    /// The headers that it names, in lower case.
    pub(crate) request_headers: Vec<Box<str>>,
    pub(crate) response_headers: Vec<Box<str>>,
}

#[derive(Debug)]
pub(super) enum Shape {
    /// Names and values, with further ones.
    Fields(Style, Vec<AccessField>),
    Pieces(Arc<AccessTemplate>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Text,
    Json,
    Logfmt,
}

impl Look {
    pub(crate) fn new(config: &LogConfig) -> Self {
        let fields = |style| Shape::Fields(style, further(style, &config.access_fields));
        let shape = match (&config.access_format, config.access_format.template()) {
            (_, Some(template)) => Shape::Pieces(template),
            (AccessFormat::Json, None) => fields(Style::Json),
            (AccessFormat::Logfmt, None) => fields(Style::Logfmt),
            (_, None) => fields(Style::Text),
        };
        let mut look = Self { shape, request_headers: Vec::new(), response_headers: Vec::new() };
        let named: Vec<AccessField> = match &look.shape {
            Shape::Fields(_, further) => further.clone(),
            Shape::Pieces(template) => {
                let fields = template.pieces.iter().filter_map(|piece| match piece {
                    AccessPiece::Field(field, _) => Some(field.clone()),
                    AccessPiece::Text(_) => None,
                });
                fields.collect()
            }
        };
        for field in named {
            let (headers, name) = match field {
                AccessField::RequestHeader(name) => (&mut look.request_headers, name),
                AccessField::ResponseHeader(name) => (&mut look.response_headers, name),
                _ => continue,
            };
            if !headers.contains(&name) {
                headers.push(name);
            }
        }
        look
    }
}

/// The fields that a style's lines do not have anyway, each once.
fn further(style: Style, fields: &[AccessField]) -> Vec<AccessField> {
    use AccessField as F;
    let mut further = Vec::new();
    for field in fields {
        let is_there = match field {
            F::Time
            | F::Client
            | F::Method
            | F::Host
            | F::Target
            | F::Status
            | F::BytesIn
            | F::BytesOut
            | F::Upstream
            | F::Origin
            | F::Reused
            | F::Error
            | F::HeadUs
            | F::PoolUs
            | F::ConnectUs
            | F::FirstByteUs
            | F::TotalUs => true,
            F::Route | F::Version | F::UserAgent | F::Referer => style != Style::Text,
            _ => further.contains(field),
        };
        if !is_there {
            further.push(field.clone());
        }
    }
    further
}

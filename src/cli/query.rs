//! Values in the query of a URL.
//!
//! In goes any text; out comes what stands for it in a query, and cannot be read as anything else.

use std::fmt::Write;

/// Percent-encoded but for what is unreserved (RFC 3986 §2.3).
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

//! What a client expects before it sends its body.
//!
//! In goes a request head whose fields have been read; out comes whether it waits for a 100, or the
//! refusal of what nobody knows. What is done about it is the exchange's affair.

use super::error::HeadError;
use super::head::RequestHead;
use super::names::FieldName;

impl RequestHead {
    /// The only expectation there is; others are refused (RFC 9110 §10.1.1).
    pub(super) fn read_expect(&mut self, buf: &[u8]) -> Result<(), HeadError> {
        let mut expects_continue = false;
        for field in self.fields.all(FieldName::Expect) {
            match field.value.of(buf) {
                b"" => {}
                value if value.eq_ignore_ascii_case(b"100-continue") => expects_continue = true,
                _ => return Err(HeadError::Expectation),
            }
        }
        self.has_empty_expect = !expects_continue;
        self.expects_continue = expects_continue && !self.body.is_empty();
        Ok(())
    }
}

//! Collects the validation errors of a body, so that one response reports all of them.

use crate::problem::FieldError;

/// The longest text in an address, reference or payment method that carriers print and providers accept.
const TEXT_CHARS_MAX: usize = 200;
/// Collects validation errors.
#[derive(Default)]
pub(super) struct Validator(pub(super) Vec<FieldError>);

impl Validator {
    pub(super) fn reject(&mut self, pointer: impl Into<String>, detail: impl ToString) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.to_string() });
    }

    pub(super) fn collect<T, E: ToString>(&mut self, pointer: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.reject(pointer, error.to_string())).ok()
    }

    pub(super) fn validate_text(&mut self, pointer: &str, text: String) -> String {
        if text.trim().is_empty() {
            self.reject(pointer, "must not be empty");
        } else if text.chars().count() > TEXT_CHARS_MAX {
            self.reject(pointer, format!("must be at most {TEXT_CHARS_MAX} characters long"));
        } else if text.chars().any(char::is_control) {
            self.reject(pointer, "must not contain control characters");
        }
        text
    }
}

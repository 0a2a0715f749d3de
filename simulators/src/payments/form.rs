//! Form-encoded parameters with Stripe's bracket keys.

use std::collections::BTreeMap;

use url::form_urlencoded;

use super::bad_parameter;
use crate::exchange::Reply;

pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Parses a body or a query. Fails on a parameter whose name (before its brackets) is not in `known`: it is a
    /// typing error in the client, which must not go unnoticed.
    pub fn parse(text: &[u8], known: &[&str]) -> Result<Self, Reply> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(text).into_owned().collect();
        for (key, _) in &pairs {
            let name = key.split('[').next().unwrap_or_default();
            if !known.contains(&name) {
                let message = format!("Received unknown parameter: {key}");
                return Err(bad_parameter("parameter_unknown", key, &message));
            }
        }
        Ok(Self(pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn require(&self, name: &str) -> Result<&str, Reply> {
        self.get(name).ok_or_else(|| {
            bad_parameter("parameter_missing", name, &format!("Missing required param: {name}."))
        })
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            bad_parameter("parameter_invalid_integer", name, &format!("Invalid integer: {text}"))
        })
    }

    /// An amount of at least 1, in Stripe's units.
    pub fn amount(&self, name: &str) -> Result<Option<i64>, Reply> {
        match self.integer(name)? {
            Some(amount) if amount < 1 => {
                let message = "This value must be greater than or equal to 1.";
                Err(bad_parameter("parameter_invalid_integer", name, message))
            }
            amount => Ok(amount),
        }
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            bad_parameter("parameter_invalid_boolean", name, &format!("Invalid boolean: {text}"))
        })
    }

    pub fn metadata(&self) -> BTreeMap<String, String> {
        let key = |name: &str| Some(name.strip_prefix("metadata[")?.strip_suffix(']')?.to_owned());
        self.0.iter().filter_map(|(name, value)| Some((key(name)?, value.clone()))).collect()
    }

    pub fn expands(&self, field: &str) -> bool {
        self.0.iter().any(|(key, value)| key.starts_with("expand[") && value == field)
    }

    /// All values, which fault rules match on.
    pub fn subject(&self) -> String {
        self.0.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" ")
    }
}

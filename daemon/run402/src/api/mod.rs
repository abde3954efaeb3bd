//! The calls of the API, one file for each group of tools.
//!
//! Input: a [`Client`](crate::client::Client) and typed arguments, checked here before anything is sent.
//! Output: typed answers that keep the fields that we do not know.

pub mod asset_dirs;
pub mod assets;
pub mod ci;
pub mod functions;
pub mod projects;
pub mod releases;
pub mod secrets;
pub mod sites;
pub mod subdomains;
pub mod tiers;
pub mod wallets;

use serde_json::{Map, Value};

/// Fields of an answer that have no name here.
pub type Rest = Map<String, Value>;

/// A key as path: each part percent-encoded, the slashes kept.
pub(crate) fn encoded_path(key: &str) -> String {
    key.split('/').map(|part| crate::deploy::encoded(part).to_string()).collect::<Vec<_>>().join("/")
}

/// A query of the parameters that are given.
pub(crate) fn query(parameters: &[(&str, Option<String>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        text if text.is_empty() => text,
        text => format!("?{text}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_and_queries_are_escaped() {
        assert_eq!(super::encoded_path("a b/ü?.txt"), "a%20b/%C3%BC%3F.txt");
        assert_eq!(super::query(&[("a", Some("x y&z".to_owned())), ("b", None)]), "?a=x+y%26z");
        assert_eq!(super::query(&[("b", None)]), "");
    }
}

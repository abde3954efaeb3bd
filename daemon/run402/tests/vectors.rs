//! Values that the vendor's own client made from fixed inputs: ours are the same, byte for byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use run402::deploy::content_type;
use run402::deploy::cron::shortest_interval_minutes;
use run402::deploy::site_manifest::{self, ManifestFile};
use run402::deploy::{Digest, named_migration};
use run402::environment::Environment;
use run402::payment::{Challenge, Journal, PaidRequest, Payees, Payer, PaymentPolicy};
use run402::signin::{Address, Message, Signer};
use serde_json::{Value, json};

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a vector is well-formed");
    let value: Value = serde_json::from_str(&text).expect("a vector is well-formed");
    let cases = value["cases"].as_array().expect("a vector is well-formed").clone();
    assert!(!cases.is_empty());
    cases
}

fn text<'value>(value: &'value Value, key: &str) -> &'value str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn signer(case: &Value) -> Signer {
    let bytes = hex::decode(&text(case, "private_key")[2..]).expect("a vector is well-formed");
    Signer::from_bytes(&bytes.try_into().expect("a vector is well-formed")).expect("a key")
}

#[test]
fn checksum_address() {
    for case in cases("checksum-address") {
        let address: Address = text(&case, "in").parse().expect("a vector is well-formed");
        assert_eq!(address.to_string(), text(&case, "out"));
        assert_eq!(address.to_lower(), text(&case, "in"));
    }
}

#[test]
fn siwx() {
    for case in cases("siwx") {
        let signer = signer(&case);
        assert_eq!(signer.address().to_lower(), text(&case, "address_in_file"));
        let mut fields = case["payload"].clone();
        let signature = fields.as_object_mut().expect("a vector is well-formed").remove("signature").unwrap();
        // The number is how an old client wrote it; what goes into the text is the same.
        if fields["chainId"].is_number() {
            fields["chainId"] = format!("eip155:{}", fields["chainId"]).into();
        }
        let message: Message = serde_json::from_value(fields).expect("a vector is well-formed");
        assert_eq!(message.text(), text(&case, "message"));
        assert_eq!(signer.sign_message(&message.text()), signature);
        assert_eq!(message.sign(&signer), text(&case, "header_value"), "{case}");
    }
}

#[test]
fn content_types() {
    for case in cases("content-types") {
        let name = text(&case, "name");
        assert_eq!(content_type::of_file(name), text(&case, "site"), "{name} in a site");
        assert_eq!(content_type::of_file(name), text(&case, "assets_slice"), "{name} in an assets slice");
        assert_eq!(content_type::of_asset(name), text(&case, "asset_put"), "{name} as an asset");
    }
}

#[test]
fn cron_intervals() {
    for case in cases("cron-interval") {
        let expression = text(&case, "cron");
        let expected = case["minutes"].as_u64();
        assert_eq!(shortest_interval_minutes(expression).map(u64::from), expected, "{expression}");
    }
}

#[test]
fn ids_of_named_migrations() {
    for case in cases("migration-ids") {
        let sql = Digest::of(text(&case, "sql").as_bytes());
        assert_eq!(named_migration(text(&case, "name"), &sql), text(&case, "id"));
        assert_eq!(sql.to_string(), text(&case, "checksum"));
    }
}

#[test]
fn retired_site_manifests() {
    for case in cases("v132-manifest-digest") {
        let file = |file: &Value| ManifestFile {
            content_type: file["content_type"].as_str().unwrap_or("application/octet-stream").to_owned(),
            path: text(file, "path").to_owned(),
            sha256: text(file, "sha256").to_owned(),
            size: file["size"].as_u64().expect("a size"),
        };
        let files: Vec<_> = case["input"].as_array().expect("files").iter().map(file).collect();
        assert_eq!(site_manifest::canonical(files.clone()), text(&case, "canonical"));
        assert_eq!(site_manifest::digest(files).to_string(), text(&case, "sha256"));
    }
}

#[tokio::test]
async fn x402_exact() {
    for case in cases("x402-exact") {
        let resource = &case["payload"]["resource"];
        let challenge =
            json!({"x402Version": 2, "error": "Payment required", "resource": resource, "accepts": [case["accepted"]]});
        let header = STANDARD.encode(challenge.to_string());
        let challenge = Challenge::read(Some(&header), b"").expect("readable").expect("a challenge");
        let offer = challenge.offers[0].as_ref().expect("an offer");
        let policy = PaymentPolicy {
            max_atomic: [(offer.network, offer.amount)].into(),
            payees: Payees::Only(vec![offer.pay_to]),
        };
        let request = PaidRequest::new("POST", text(resource, "url"), b"{}");
        let authorization = &case["authorization"];
        let after: i64 = text(authorization, "validAfter").parse().expect("seconds");
        let now = time::OffsetDateTime::from_unix_timestamp(after + 600).expect("a time");
        let nonce = text(authorization, "nonce").parse().expect("a nonce");
        let decision = Payer::new(signer(&case), policy).decide(&challenge, &request, now, nonce).expect("allowed");
        let digest = decision.authorization().digest();
        assert_eq!(format!("0x{}", hex::encode(digest)), text(&case, "typed_data_digest"));
        assert_eq!(signer(&case).sign_digest(&digest), text(&case, "signature"));

        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().as_os_str().to_owned();
        let look_up = move |name: &str| (name == "RUN402_CONFIG_DIR").then(|| config.clone());
        let base = "https://api.run402.com".parse().expect("a base");
        let journal = Journal::new(&Environment::resolve(&look_up, &base).expect("good"));
        let intent = journal.intend(decision, now).await.expect("written down");
        assert_eq!(intent.header().value.reveal(), text(&case["header"], "value"));
        assert!(intent.header().name.eq_ignore_ascii_case(text(&case["header"], "name")));
    }
}

//! Values that the vendor's own client made from fixed inputs: ours are the same, byte for byte.

use run402::signin::{Address, Message, Signer};
use serde_json::Value;

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let cases = value["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text<'value>(value: &'value Value, key: &str) -> &'value str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn signer(case: &Value) -> Signer {
    let bytes = hex::decode(&text(case, "private_key")[2..]).unwrap();
    Signer::from_bytes(&bytes.try_into().unwrap()).unwrap()
}

#[test]
fn checksum_address() {
    for case in cases("checksum-address") {
        let address: Address = text(&case, "in").parse().unwrap();
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
        let signature = fields.as_object_mut().unwrap().remove("signature").unwrap();
        // The number is how an old client wrote it; what goes into the text is the same.
        if fields["chainId"].is_number() {
            fields["chainId"] = format!("eip155:{}", fields["chainId"]).into();
        }
        let message: Message = serde_json::from_value(fields).unwrap();
        assert_eq!(message.text(), text(&case, "message"));
        assert_eq!(signer.sign_message(&message.text()), signature);
        assert_eq!(message.sign(&signer), text(&case, "header_value"), "{case}");
    }
}

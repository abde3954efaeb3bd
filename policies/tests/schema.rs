//! `policies/schema.json` is what the code says.

use std::path::Path;

#[test]
fn schema_json_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
    let generated = sandbox_policy::schema();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&file, &generated).expect("schema.json is writable");
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == generated,
        "policies/schema.json is stale; regenerate it with: UPDATE_SCHEMA=1 cargo test -p sandbox-policy --test schema"
    );
}

//! Expose manifests against a real PostgreSQL.

mod postgres;

use postgres::Server;
use run402_gateway::database::Limits;
use run402_gateway::database::expose::{IssueKind, KeptSource, Manifest, Names};
use serde_json::{Value, json};

const A: &str = "prj_a";

fn read(manifest: Value) -> Manifest {
    Manifest::read(&manifest).expect("of the right shape")
}

#[tokio::test]
async fn a_manifest_is_compared_with_what_there_is_and_kept() {
    let server = Server::start();
    let database = server.database(Limits::default()).await;
    let sql = "CREATE TABLE notes (id int, user_id text, api_token text);
        CREATE FUNCTION plus(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT a + b';
        CREATE FUNCTION say(t text) RETURNS text LANGUAGE sql AS 'SELECT t';
        CREATE FUNCTION say(n int) RETURNS int LANGUAGE sql AS 'SELECT n';
        CREATE FUNCTION now() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    database.run_sql(A, sql, &[]).await.expect("made");
    let introspected = database.exposed(A).await.expect("read");
    assert_eq!(introspected.source, KeptSource::Introspected);
    assert_eq!(introspected.manifest["tables"], json!([{"name": "notes", "expose": false}]));

    let good = read(json!({
        "version": "1",
        "tables": [{"name": "notes", "expose": true, "policy": "user_owns_rows", "owner_column": "user_id"}],
        "views": [{"name": "v", "base": "notes", "select": ["id"]}],
        "rpcs": [
            {"name": "plus", "signature": "(integer, integer)", "grant_to": ["anon"]},
            {"name": "plus", "signature": "(a integer, b integer)", "grant_to": ["anon"]},
            {"name": "plus", "signature": "(int,int4)", "grant_to": ["anon"]},
            {"name": "say", "signature": "(text)", "grant_to": ["authenticated"]},
            {"name": "now", "signature": "()", "grant_to": []},
        ],
    }));
    let findings = database.check_expose(A, &good, None).await.expect("checked");
    assert_eq!((findings.has_errors, findings.errors, findings.warnings), (false, vec![], vec![]));

    let bad = read(json!({
        "version": "1",
        "tables": [
            {"name": "lost", "expose": true, "policy": "custom", "custom_sql": "SELECT 1"},
            {"name": "notes", "expose": true, "policy": "public_read_write_UNRESTRICTED", "owner_column": "gone",
             "i_understand_this_is_unrestricted": true},
        ],
        "views": [
            {"name": "v", "base": "lost", "select": ["id"]},
            {"name": "w", "base": "notes", "select": ["id", "name"]},
        ],
        "rpcs": [
            {"name": "missing", "signature": "()", "grant_to": []},
            {"name": "plus", "signature": "(text)", "grant_to": []},
            {"name": "say", "signature": "(json)", "grant_to": []},
            {"name": "plus", "signature": "(int); DROP TABLE notes; --)".replace(';', ","), "grant_to": []},
        ],
    }));
    let findings = database.check_expose(A, &bad, None).await.expect("checked");
    let kinds: Vec<IssueKind> = findings.errors.iter().map(|issue| issue.kind).collect();
    assert_eq!(
        kinds,
        [
            IssueKind::MissingTable,
            IssueKind::MissingColumn,
            IssueKind::MissingViewBase,
            IssueKind::MissingColumn,
            IssueKind::MissingRpc,
            IssueKind::MissingRpc,
            IssueKind::AmbiguousRpc,
            IssueKind::MissingRpc,
        ]
    );
    assert_eq!(findings.errors[5].fix.as_deref(), Some("write the signature (integer, integer)"));
    assert_eq!(findings.warnings.len(), 1);
    assert_eq!(findings.warnings[0].kind, IssueKind::SensitiveColumnPublicWrite);
    assert_eq!(serde_json::to_value(&findings.errors[0]).expect("JSON")["type"], "missing-table");

    // What a script may still make is no error.
    let script = "CREATE TABLE lost (id int); ALTER TABLE notes ADD COLUMN gone text, ADD COLUMN name text";
    let findings = database.check_expose(A, &bad, Some(script)).await.expect("checked");
    assert_eq!(findings.errors.len(), 4);
    assert_eq!(findings.warnings.iter().filter(|issue| issue.kind == IssueKind::ValidationInconclusive).count(), 4);

    let outcome = database.expose(A, &good).await.expect("kept");
    assert_eq!(outcome.applied.tables, ["notes"]);
    assert_eq!(outcome.dropped, Names::default());
    let outcome = database.expose(A, &read(json!({"version": "1"}))).await.expect("kept");
    assert_eq!((outcome.applied, outcome.dropped.views), (Names::default(), vec!["v".to_owned()]));
    database.expose(A, &good).await.expect("kept");
    let kept = database.exposed(A).await.expect("read");
    assert_eq!(kept.source, KeptSource::Applied);
    assert_eq!(kept.manifest["tables"][0]["owner_column"], "user_id");
    assert_eq!(Manifest::read(&kept.manifest), Ok(good));
    // Nobody else can read the table for it.
    let denied = database.run_sql("prj_b", "SELECT * FROM p_prj_a.notes", &[]).await;
    assert!(denied.is_err());
}

//! Databases of projects against a real PostgreSQL: what works, and what projects cannot do.

mod postgres;

use postgres::Server;
use run402_gateway::database::{Database, DatabaseError, Limits, Migration, ProjectSchema, SqlResult, Transaction};
use serde_json::{Value, json};
use std::time::Duration;

const A: &str = "prj_a";
const B: &str = "prj_b";

fn limits() -> Limits {
    Limits::default()
}

async fn ok(database: &Database, project: &str, sql: &str) -> SqlResult {
    database.run_sql(project, sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn rows(database: &Database, project: &str, sql: &str) -> Value {
    json!(ok(database, project, sql).await.rows)
}

/// The error's SQLSTATE.
async fn state(database: &Database, project: &str, sql: &str) -> String {
    match database.run_sql(project, sql, &[]).await {
        Err(DatabaseError::Sql(fault)) => fault.sqlstate.unwrap_or_else(|| fault.message.clone()),
        Err(error) => format!("{error:?}"),
        Ok(result) => panic!("{sql}: {result:?}"),
    }
}

fn migration(id: &str, sql: &str) -> Migration {
    let checksum = format!("{:064x}", sql.len());
    Migration { id: id.to_owned(), checksum, sql: sql.to_owned(), transaction: Transaction::Required }
}

#[tokio::test]
async fn no_statement_leaves_its_project() {
    let server = Server::start();
    let database = server.database(limits()).await;
    let (a, b) = (ProjectSchema::of(A), ProjectSchema::of(B));
    ok(&database, A, "CREATE TABLE secrets (text text); INSERT INTO secrets VALUES ('of a')").await;
    ok(&database, B, "CREATE TABLE own (n int)").await;

    // Whatever gives rights back in a session that only pretends gives nothing here.
    for reset in [
        "RESET ROLE",
        "SET ROLE NONE",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION DEFAULT",
        "DISCARD ALL",
    ] {
        let who = "SELECT current_user::text AS c, session_user::text AS s, (SELECT rolsuper FROM pg_roles
            WHERE rolname = current_user) AS super";
        let script = if reset == "DISCARD ALL" { who.to_owned() } else { format!("{reset}; {who}") };
        let who = rows(&database, B, &script).await;
        assert!(who[0]["c"].as_str().expect("a text").starts_with(b.as_str()), "{reset}: {who}");
        assert_eq!((&who[0]["c"], &who[0]["super"]), (&who[0]["s"], &json!(false)), "{reset}");
        assert_eq!(
            state(&database, B, &format!("{reset}; SELECT * FROM {a}.secrets")).await.as_str(),
            match reset {
                "DISCARD ALL" => "25001",
                _ => "42501",
            }
        );
    }

    let denied = "42501";
    for (sql, expected) in [
        (format!("SELECT * FROM {a}.secrets"), denied),
        (format!("SELECT * FROM {a}.missing"), denied),
        (format!("SET search_path = {a}; SELECT * FROM secrets"), "42P01"),
        (format!("CREATE TABLE {a}.x (n int)"), denied),
        (format!("DROP SCHEMA {a} CASCADE"), denied),
        ("DO $$ BEGIN RESET ROLE; EXECUTE 'SELECT * FROM p_prj_a.secrets'; END $$".to_owned(), denied),
        ("SET ROLE admin".to_owned(), denied),
        ("SET SESSION AUTHORIZATION admin".to_owned(), denied),
        ("GRANT admin TO CURRENT_USER".to_owned(), denied),
        ("ALTER ROLE CURRENT_USER SUPERUSER".to_owned(), denied),
        ("ALTER ROLE CURRENT_USER CREATEROLE".to_owned(), denied),
        ("ALTER ROLE CURRENT_USER CONNECTION LIMIT -1".to_owned(), denied),
        ("ALTER ROLE CURRENT_USER SET temp_file_limit = -1".to_owned(), denied),
        ("SET temp_file_limit = -1".to_owned(), denied),
        ("SET session_replication_role = replica".to_owned(), denied),
        ("CREATE ROLE other".to_owned(), denied),
        ("CREATE DATABASE other".to_owned(), denied),
        ("CREATE SCHEMA other".to_owned(), denied),
        ("CREATE TABLE public.x (n int)".to_owned(), denied),
        ("CREATE EXTENSION pgcrypto".to_owned(), "58P01"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'getpid'".to_owned(), denied),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'pg_backend_pid'".to_owned(), denied),
        ("CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION pg_catalog.now()".to_owned(), denied),
        ("ALTER SYSTEM SET fsync = off".to_owned(), denied),
        ("SELECT pg_read_file('/etc/passwd')".to_owned(), denied),
        ("SELECT pg_ls_dir('/')".to_owned(), denied),
        ("SELECT lo_import('/etc/passwd')".to_owned(), denied),
        ("SELECT pg_reload_conf()".to_owned(), denied),
        ("COPY own TO PROGRAM 'cat'".to_owned(), denied),
        ("COPY own FROM '/etc/passwd'".to_owned(), denied),
        ("SELECT * FROM pg_authid".to_owned(), denied),
        ("SELECT * FROM run402.migrations".to_owned(), denied),
        ("SELECT * FROM run402.projects".to_owned(), denied),
        ("DROP FUNCTION run402.record(text, text)".to_owned(), denied),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'admin'".to_owned(), denied),
    ] {
        let found = state(&database, B, &sql).await;
        // Extensions: not installed, or not allowed.
        let either = expected == "58P01" && matches!(found.as_str(), "0A000" | "42501" | "58P01");
        assert!(found == expected || either, "{sql}: {found}");
    }
    // What belongs to another project is still as it was.
    assert_eq!(rows(&database, A, "SELECT * FROM secrets").await, json!([{"text": "of a"}]));
    // A registry can only be written for oneself.
    ok(&database, B, "SELECT run402.record('forged', 'x')").await;
    assert_eq!(database.applied(A).await.expect("read"), []);
}

#[tokio::test]
async fn a_project_cannot_lock_itself_or_others_out() {
    let server = Server::start();
    let database = server.database(limits()).await;
    ok(&database, A, "ALTER ROLE CURRENT_USER PASSWORD 'changed'").await;
    ok(&database, A, "ALTER ROLE CURRENT_USER SET search_path = nowhere").await;
    ok(&database, A, "ALTER ROLE CURRENT_USER SET statement_timeout = 1").await;
    ok(&database, A, "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on").await;
    ok(&database, A, "SELECT pg_advisory_lock(n) FROM generate_series(1, 100) n").await;
    ok(&database, A, "CREATE TABLE t (n int)").await;
    // Shadows of what our own statements use.
    ok(&database, A, "CREATE FUNCTION pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1/0'").await;
    ok(&database, A, "CREATE TABLE pg_class (n int)").await;
    let tables = database.schema(A).await.expect("read").tables;
    assert_eq!(tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["pg_class", "t"]);
    // Another gateway has passwords of its own; both go on.
    let other = server.database(limits()).await;
    for _ in 0..2 {
        assert_eq!(rows(&other, A, "SELECT count(*) FROM t").await, json!([{"count": 0}]));
        assert_eq!(rows(&database, A, "SELECT count(*) FROM t").await, json!([{"count": 0}]));
    }
    assert!(database.size_bytes(A).await.expect("measured") < 1 << 20);
}

#[tokio::test]
async fn results_are_json() {
    let server = Server::start();
    let database = server.database(limits()).await;
    let result = ok(
        &database,
        A,
        "SELECT 1 AS n, 'a' AS t, NULL AS z, true AS b, 1.50 AS d, '{\"k\":[1]}'::jsonb AS j,
        ARRAY[1,NULL] AS a, '2026-11-27 08:00+01'::timestamptz AS at, 9007199254740993 AS big, '\\x00ff'::bytea AS y",
    )
    .await;
    assert_eq!(result.schema, "p_prj_a");
    assert_eq!((result.status, result.row_count), ("ok", Some(1)));
    assert_eq!(
        json!(result.rows),
        json!([{"n": 1, "t": "a", "z": null, "b": true, "d": "1.50", "j": {"k": [1]}, "a": [1, null],
            "at": "2026-11-27T07:00:00+00:00", "big": 9_007_199_254_740_993_i64, "y": "\\x00ff"}])
    );
    let fields = json!(result.fields);
    assert_eq!(fields[0], json!({"name": "n", "type": "int4"}));
    assert_eq!(fields[5], json!({"name": "j", "type": "jsonb"}));

    let made = ok(&database, A, "CREATE TABLE t (id int PRIMARY KEY, mood text, tags text[])").await;
    assert_eq!((made.row_count, made.rows.len(), made.fields.len()), (None, 0, 0));
    assert_eq!(ok(&database, A, "INSERT INTO t SELECT n FROM generate_series(1, 5) n").await.row_count, Some(5));
    assert_eq!(ok(&database, A, "UPDATE t SET mood = 'x' WHERE id > 9").await.row_count, Some(0));
    let returned = ok(&database, A, "DELETE FROM t WHERE id > 3 RETURNING id").await;
    assert_eq!((json!(returned.rows), returned.row_count), (json!([{"id": 4}, {"id": 5}]), Some(2)));
    let empty = ok(&database, A, "SELECT * FROM t WHERE false").await;
    assert_eq!((empty.row_count, empty.fields.len()), (Some(0), 3));
    for nothing in ["", " ; -- nothing"] {
        assert_eq!(ok(&database, A, nothing).await.row_count, None);
    }
    ok(&database, A, "VACUUM t").await;
    ok(&database, A, "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0)").await;
    assert_eq!(
        rows(&database, A, "SELECT 'ok'::mood AS m, 7::positive AS p, ARRAY['sad'::mood] AS a, ROW(1, 'x') AS r").await,
        json!([{"m": "ok", "p": 7, "a": ["sad"], "r": "(1,x)"}])
    );

    let fault = database.run_sql(A, "SELECT 1;\n  SELECT é FROM wo", &[]).await.expect_err("no such table");
    let DatabaseError::Sql(fault) = fault else { panic!("{fault}") };
    assert_eq!((fault.sqlstate.as_deref(), fault.position), (Some("42P01"), Some(27)));
    let fault = database.run_sql(A, "SELEC 1", &[]).await.expect_err("no statement");
    assert!(fault.to_string().contains("syntax error") && fault.to_string().contains("character 1"), "{fault}");
    assert!(state(&database, A, "SELECT 'a\0b'").await.contains("NUL"));
}

#[tokio::test]
async fn parameters_are_values_and_never_sql() {
    let server = Server::start();
    let database = server.database(limits()).await;
    ok(&database, A, "CREATE TABLE t (id int, name text, tags text[], data jsonb, at timestamptz)").await;
    let insert = "INSERT INTO t VALUES ($1, $2, $3, $4, $5) RETURNING *;";
    let name = "'); DROP TABLE t; --\\ é \"";
    let params = [
        json!(7),
        json!(name),
        json!(["a,b", "\"{}\\", null]),
        json!({"k": [1, "x'y"]}),
        json!("2026-11-27T08:00:00Z"),
    ];
    let result = database.run_sql(A, insert, &params).await.expect("inserted");
    assert_eq!(
        json!(result.rows),
        json!([{"id": 7, "name": name, "tags": ["a,b", "\"{}\\", null], "data": {"k": [1, "x'y"]},
            "at": "2026-11-27T08:00:00+00:00"}])
    );
    assert_eq!(result.row_count, Some(1));
    let select = "SELECT id FROM t WHERE id = ANY($1) AND name LIKE $2";
    let found = database.run_sql(A, select, &[json!([7, 8]), json!("%DROP%")]).await.expect("found");
    assert_eq!(json!(found.rows), json!([{"id": 7}]));
    let null = database.run_sql(A, "SELECT $1::int IS NULL AS n", &[json!(null)]).await.expect("selected");
    assert_eq!(json!(null.rows), json!([{"n": true}]));
    for (sql, params) in [
        ("SELECT $1::int", vec![]),
        ("SELECT $1::int", vec![json!(1), json!(2)]),
        ("SELECT 1; SELECT $1::int", vec![json!(1)]),
        ("", vec![json!(1)]),
        ("SELECT $1::text", vec![json!("a\0b")]),
    ] {
        let error = database.run_sql(A, sql, &params).await.expect_err(sql);
        assert_eq!(error.code(), "BAD_FIELD", "{sql}: {error}");
    }
    let error = database.run_sql(A, "SELECT $1::int", &[json!("x")]).await.expect_err("no number");
    assert!(error.to_string().contains("invalid input syntax for type integer"), "{error}");
}

#[tokio::test]
async fn statements_of_one_call_hold_together() {
    let server = Server::start();
    let database = server.database(limits()).await;
    ok(&database, A, "CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await;
    assert_eq!(state(&database, A, "INSERT INTO t VALUES (1); SELECT 1/0").await, "22012");
    assert_eq!(state(&database, A, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)").await, "23505");
    let count = "SELECT count(*)::int AS n FROM t";
    assert_eq!(rows(&database, A, count).await, json!([{"n": 0}]));
    // Whoever writes transactions gets them.
    assert_eq!(state(&database, A, "BEGIN; INSERT INTO t VALUES (2); COMMIT; SELECT 1/0").await, "22012");
    assert_eq!(rows(&database, A, count).await, json!([{"n": 1}]));
    assert!(state(&database, A, "BEGIN; INSERT INTO t VALUES (3)").await.contains("not committed"));
    ok(&database, A, "BEGIN; INSERT INTO t VALUES (4); ROLLBACK").await;
    assert_eq!(rows(&database, A, count).await, json!([{"n": 1}]));
    // Nothing is left of a session.
    ok(&database, A, "SET search_path = pg_catalog; CREATE TEMP TABLE x (n int); SELECT 1").await;
    assert_eq!(rows(&database, A, count).await, json!([{"n": 1}]));
    assert_eq!(state(&database, A, "SELECT * FROM x").await, "42P01");
}

#[tokio::test]
async fn no_statement_takes_more_than_it_may() {
    let server = Server::start();
    let small = Limits { rows: 100, result_bytes: 10_000, sql_bytes: 10_000, ..limits() };
    let hasty = server.database(Limits { statement: Duration::from_secs(2), ..small.clone() }).await;
    for sql in [
        "SELECT pg_sleep(1000)",
        "SET statement_timeout = 0; SELECT pg_sleep(1000)",
        "SET statement_timeout = 0; DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(1000);
            EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
    ] {
        let error = hasty.run_sql(A, sql, &[]).await.expect_err(sql);
        assert_eq!(error.code(), "SQL_TIMEOUT", "{sql}: {error}");
    }
    let database = server.database(small).await;
    ok(&database, A, "CREATE TABLE t (n int)").await;
    for sql in [
        "SELECT n FROM generate_series(1, 101) n",
        "SELECT repeat('x', 20000)",
        "SELECT repeat('x', 1000), generate_series(1, 1000000000)",
        "INSERT INTO t SELECT generate_series(1, 101) RETURNING n",
    ] {
        let error = database.run_sql(A, sql, &[]).await.expect_err(sql);
        assert_eq!(error.code(), "RESULT_TOO_LARGE", "{sql}: {error}");
    }
    let long = format!("SELECT '{}'", "x".repeat(10_000));
    assert_eq!(database.run_sql(A, &long, &[]).await.expect_err("long").code(), "BAD_FIELD");
    assert_eq!(rows(&database, A, "SELECT count(*)::int AS n FROM t").await, json!([{"n": 0}]));
    assert_eq!(ok(&database, A, "SELECT n FROM generate_series(1, 100) n").await.rows.len(), 100);
    // Sessions that were given up are ended, too.
    let waiting = "SET statement_timeout = 0; SELECT pg_sleep(1000)";
    let given_up = tokio::time::timeout(Duration::from_millis(300), database.run_sql(A, waiting, &[])).await;
    assert!(given_up.is_err());
    let running =
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()";
    for _ in 0..600 {
        if rows(&database, A, running).await == json!([{"n": 0}]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a session that nobody waits for goes on");
}

#[tokio::test]
async fn migrations_are_applied_once_and_wholly() {
    let server = Server::start();
    let database = server.database(limits()).await;
    let first = migration("001", "CREATE TABLE t (n int);\nINSERT INTO t VALUES (1);");
    let second = migration(
        "002",
        "ALTER TABLE t ADD COLUMN s text; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$",
    );
    let both = [first.clone(), second.clone()];
    let plan = database.plan(A, &both).await.expect("planned");
    assert_eq!((plan.new.len(), plan.noop.len()), (2, 0));
    assert_eq!(database.apply(A, &both[..1]).await.expect("applied"), ["001"]);
    let plan = database.plan(A, &both).await.expect("planned");
    assert_eq!((plan.new[0].id.as_str(), plan.noop[0].id.as_str()), ("002", "001"));
    assert_eq!(database.apply(A, &both).await.expect("applied"), ["002"]);
    assert_eq!(database.apply(A, &both).await.expect("applied"), Vec::<String>::new());
    let applied = database.applied(A).await.expect("read");
    assert_eq!(applied.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["001", "002"]);
    assert!(applied[0].applied_at.ends_with('Z') && applied[0].applied_at <= applied[1].applied_at);
    assert_eq!(database.plan(B, &both).await.expect("planned").new.len(), 2);

    let changed = Migration { checksum: "0".repeat(64), ..first.clone() };
    for refused in [
        database.plan(A, std::slice::from_ref(&changed)).await.map(drop),
        database.apply(A, &[changed]).await.map(drop),
    ] {
        assert_eq!(refused.expect_err("another checksum").code(), "MIGRATION_CHECKSUM_MISMATCH");
    }
    let twice = [first.clone(), first];
    assert!(matches!(database.plan(B, &twice).await, Err(DatabaseError::DuplicateMigration { .. })));

    // One fails: those before it stay, nothing of it does, those after it are not tried.
    let three = [
        migration("003", "CREATE TABLE three (n int)"),
        migration("004", "CREATE TABLE four (n int);\nSELECT * FROM missing;"),
        migration("005", "CREATE TABLE five (n int)"),
    ];
    let error = database.apply(A, &three).await.expect_err("004 fails");
    assert_eq!(error.code(), "MIGRATION_FAILED");
    let DatabaseError::MigrationFailed { id, fault, applied, rolled_back } = error else { panic!("{error}") };
    assert_eq!((id.as_str(), applied, rolled_back), ("004", vec!["003".to_owned()], true));
    assert_eq!((fault.sqlstate.as_deref(), fault.position), (Some("42P01"), Some(42)));
    let tables: Vec<String> =
        database.schema(A).await.expect("read").tables.into_iter().map(|table| table.name).collect();
    assert_eq!(tables, ["t", "three"]);

    // A constraint that is put off fails at the end, and still within.
    let late = "CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1), (1)";
    assert!(matches!(database.apply(A, &[migration("006", late)]).await, Err(DatabaseError::MigrationFailed { .. })));
    for (id, sql) in [
        ("007", "CREATE TABLE seven (n int); COMMIT; SELECT 1/0"),
        ("008", "CREATE TABLE seven (n int); ROLLBACK"),
        ("009", "DO $$ BEGIN COMMIT; END $$"),
        ("010", "CREATE TABLE seven (n int); CREATE INDEX CONCURRENTLY i ON seven (n)"),
        ("011", "CREATE TABLE seven (n int); CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CALL p()"),
        ("012", "SELECT 'a\0'"),
    ] {
        let error = database.apply(A, &[migration(id, sql)]).await.expect_err(sql);
        assert!(!matches!(error, DatabaseError::Admin { .. }), "{sql}: {error:?}");
    }
    let error = database.apply(A, &[migration("007", "SELECT 1; COMMIT")]).await.expect_err("no COMMIT");
    let DatabaseError::MigrationFailed { fault, .. } = error else { panic!("{error}") };
    assert!(fault.message.contains("one transaction") && fault.position == Some(11), "{fault}");
    assert_eq!(database.applied(A).await.expect("read").len(), 3);
    assert_eq!(state(&database, A, "SELECT * FROM seven").await, "42P01");
}

#[tokio::test]
async fn migrations_without_a_transaction_run_statement_by_statement() {
    let server = Server::start();
    let database = server.database(limits()).await;
    let none = |id: &str, sql: &str| Migration { transaction: Transaction::None, ..migration(id, sql) };
    let index =
        none("001", "CREATE TABLE IF NOT EXISTS t (n int); CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n);");
    assert_eq!(database.apply(A, &[index]).await.expect("applied"), ["001"]);
    let halfway = none("002", "INSERT INTO t VALUES (1);\nSELECT * FROM é;");
    let error = database.apply(A, &[halfway]).await.expect_err("fails");
    let DatabaseError::MigrationFailed { fault, rolled_back, .. } = error else { panic!("{error}") };
    assert_eq!((fault.position, rolled_back), (Some(41), false));
    assert_eq!(rows(&database, A, "SELECT n FROM t").await, json!([{"n": 1}]));
    let open = none("003", "BEGIN; INSERT INTO t VALUES (2);");
    assert!(database.apply(A, &[open]).await.is_err());
    assert_eq!(rows(&database, A, "SELECT n FROM t").await, json!([{"n": 1}]));
    assert_eq!(database.applied(A).await.expect("read").len(), 1);
}

#[tokio::test]
async fn migrations_at_the_same_time_are_applied_once() {
    let server = Server::start();
    let database = server.database(limits()).await;
    let other = server.database(limits()).await;
    let slow = [
        migration("001", "SELECT pg_sleep(0.5); CREATE TABLE t (n int)"),
        migration("002", "INSERT INTO t VALUES (1)"),
    ];
    let (one, two, three) = tokio::join!(database.apply(A, &slow), other.apply(A, &slow), database.apply(A, &slow));
    let mut counts: Vec<usize> = [one, two, three].map(|applied| applied.expect("applied").len()).to_vec();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 2]);
    assert_eq!(rows(&database, A, "SELECT n FROM t").await, json!([{"n": 1}]));
    // Given up while it runs: nothing stays, and the next one does not have to wait for it.
    let waiting =
        [migration("003", "CREATE TABLE three (n int); SET LOCAL statement_timeout = 0; SELECT pg_sleep(1000)")];
    assert!(tokio::time::timeout(Duration::from_millis(500), database.apply(A, &waiting)).await.is_err());
    assert_eq!(database.apply(A, &[migration("004", "CREATE TABLE three (n int)")]).await.expect("applied"), ["004"]);
}

#[tokio::test]
async fn a_schema_is_shown_as_its_owner_writes_it() {
    let server = Server::start();
    let database = server.database(limits()).await;
    assert_eq!(database.schema(A).await.expect("read").tables, []);
    ok(
        &database,
        A,
        "CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email varchar(80) NOT NULL UNIQUE);
         CREATE TABLE notes (id int, user_id uuid REFERENCES users ON DELETE CASCADE, gone text, n numeric(5,2) CHECK (n > 0));
         ALTER TABLE notes DROP COLUMN gone;
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON notes FOR UPDATE USING (id > 0) WITH CHECK (id < 9);
         CREATE VIEW v AS SELECT 1 AS one; CREATE INDEX i ON notes (id)",
    )
    .await;
    let schema = serde_json::to_value(database.schema(A).await.expect("read")).expect("JSON");
    assert_eq!(schema["schema"], "p_prj_a");
    assert_eq!(
        schema["tables"],
        json!([
            {"name": "notes", "rls_enabled": true, "columns": [
                {"name": "id", "type": "integer", "nullable": true, "default_value": null},
                {"name": "user_id", "type": "uuid", "nullable": true, "default_value": null},
                {"name": "n", "type": "numeric(5,2)", "nullable": true, "default_value": null}],
             "constraints": [
                {"name": "notes_n_check", "type": "CHECK", "definition": "CHECK ((n > (0)::numeric))"},
                {"name": "notes_user_id_fkey", "type": "FOREIGN KEY",
                 "definition": "FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE"}],
             "policies": [{"name": "own", "command": "UPDATE", "using_expression": "(id > 0)", "check_expression": "(id < 9)"}]},
            {"name": "users", "rls_enabled": false, "columns": [
                {"name": "id", "type": "uuid", "nullable": false, "default_value": "gen_random_uuid()"},
                {"name": "email", "type": "character varying(80)", "nullable": false, "default_value": null}],
             "constraints": [
                {"name": "users_email_key", "type": "UNIQUE", "definition": "UNIQUE (email)"},
                {"name": "users_pkey", "type": "PRIMARY KEY", "definition": "PRIMARY KEY (id)"}],
             "policies": []}
        ])
    );
}

#[tokio::test]
async fn a_dropped_project_leaves_nothing_and_others_alone() {
    let server = Server::start();
    let database = server.database(limits()).await;
    database.drop_project(A).await.expect("nothing to drop");
    database.apply(A, &[migration("001", "CREATE TABLE t (n int)")]).await.expect("applied");
    ok(&database, B, "CREATE TABLE t (n int)").await;
    ok(&database, A, "SELECT lo_create(0); CREATE TYPE x AS (n int); GRANT USAGE ON SCHEMA p_prj_a TO PUBLIC").await;
    // Somebody is at it.
    let busy = tokio::spawn({
        let database = database.clone();
        async move { database.run_sql(A, "SET statement_timeout = 0; LOCK TABLE t; SELECT pg_sleep(1000)", &[]).await }
    });
    let locked = "SELECT count(*)::int AS n FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted";
    while rows(&database, B, locked).await == json!([{"n": 0}]) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.drop_project(A).await.expect("dropped");
    assert!(busy.await.expect("no panic").is_err());
    let left = "SELECT (SELECT count(*)::int FROM pg_roles WHERE rolname LIKE 'p_prj_a%') AS roles,
        (SELECT count(*)::int FROM pg_namespace WHERE nspname LIKE 'p_prj_a%') AS schemas,
        (SELECT count(*)::int FROM pg_largeobject_metadata) AS objects";
    assert_eq!(rows(&database, B, left).await, json!([{"roles": 0, "schemas": 0, "objects": 0}]));
    assert_eq!(rows(&database, B, "SELECT count(*)::int AS n FROM t").await, json!([{"n": 0}]));
    assert_eq!(database.applied(A).await.expect("read"), []);
    // The same id again is a new project.
    assert_eq!(database.schema(A).await.expect("read").tables, []);
    assert_eq!(database.apply(A, &[migration("001", "CREATE TABLE t (n int)")]).await.expect("applied"), ["001"]);
}

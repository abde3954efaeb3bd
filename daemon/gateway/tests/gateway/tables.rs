//! A stand-in for a database: it keeps what was applied in a file, and reads no SQL but the word `FAIL`.

use run402_gateway::slices::{Database, DatabaseFault, Migration, MigrationName, MigrationPlan, Pending};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug)]
pub(crate) struct Tables {
    path: PathBuf,
}

type Answer<T> = Result<T, DatabaseFault>;

fn unavailable(error: std::io::Error) -> DatabaseFault {
    DatabaseFault::Unavailable(Box::new(error))
}

impl Tables {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Every line that was ever written: `[project, what, details]`.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }

    fn write(&self, line: Value) -> Answer<()> {
        let written = || -> std::io::Result<()> {
            let mut file: File = OpenOptions::new().create(true).append(true).open(&self.path)?;
            writeln!(file, "{line}")?;
            file.sync_all()
        };
        written().map_err(unavailable)
    }

    fn applied(&self, project: &str) -> BTreeMap<String, String> {
        let lines = self.lines();
        let migrations = lines.iter().filter(|line| line[0] == project && line[1] == "migration");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        migrations.map(|line| (text(&line[2]), text(&line[3]))).collect()
    }

    fn plan(&self, project: &str, migrations: &[MigrationName]) -> Answer<MigrationPlan> {
        let applied = self.applied(project);
        let mut plan = MigrationPlan::default();
        for migration in migrations {
            match applied.get(&migration.id) {
                None => plan.new.push(migration.clone()),
                Some(checksum) if *checksum == migration.checksum => plan.noop.push(migration.clone()),
                Some(checksum) => {
                    let (id, applied, given) = (migration.id.clone(), checksum.clone(), migration.checksum.clone());
                    return Err(DatabaseFault::Checksum { id, applied, given });
                }
            }
        }
        Ok(plan)
    }

    fn carry_out(&self, project: &str, migrations: &[Migration], expose: Option<&Value>) -> Answer<Vec<String>> {
        if self.path.with_extension("down").exists() {
            return Err(unavailable(std::io::Error::other("it is down")));
        }
        let names: Vec<MigrationName> = migrations.iter().map(|migration| migration.name.clone()).collect();
        let plan = self.plan(project, &names)?;
        let mut done = Vec::new();
        for migration in migrations.iter().filter(|migration| plan.new.contains(&migration.name)) {
            let id = migration.name.id.clone();
            if migration.sql.contains("FAIL") {
                let message = "syntax error at or near \"FAIL\"".to_owned();
                return Err(DatabaseFault::Migration { id, message, rolled_back: true, details: json!({"line": 1}) });
            }
            self.write(json!([project, "migration", id, migration.name.checksum, migration.sql]))?;
            done.push(id);
        }
        if let Some(expose) = expose {
            self.write(json!([project, "expose", expose]))?;
        }
        Ok(done)
    }
}

fn now<'a, T: Send + 'a>(answer: Answer<T>) -> Pending<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl Database for Tables {
    fn create_project<'a>(&'a self, project: &'a str) -> Pending<'a, String> {
        now(self.write(json!([project, "created"])).map(|()| format!("schema_of_{project}")))
    }

    fn drop_project<'a>(&'a self, project: &'a str) -> Pending<'a, ()> {
        now(self.write(json!([project, "dropped"])))
    }

    fn plan_migrations<'a>(&'a self, project: &'a str, migrations: &'a [MigrationName]) -> Pending<'a, MigrationPlan> {
        now(self.plan(project, migrations))
    }

    fn apply<'a>(
        &'a self,
        project: &'a str,
        migrations: &'a [Migration],
        expose: Option<&'a Value>,
    ) -> Pending<'a, Vec<String>> {
        now(self.carry_out(project, migrations, expose))
    }

    fn run_sql<'a>(&'a self, project: &'a str, sql: &'a str, params: &'a [Value]) -> Pending<'a, Value> {
        now(match sql.contains("FAIL") {
            true => Err(DatabaseFault::Refused {
                code: "SQL_ERROR".to_owned(),
                message: "syntax error".to_owned(),
                details: json!({"sqlstate": "42601"}),
            }),
            false => {
                Ok(json!({"status": "ok", "schema": project, "rows": [{"sql": sql, "params": params}], "row_count": 1}))
            }
        })
    }

    fn schema<'a>(&'a self, project: &'a str) -> Pending<'a, Value> {
        now(Ok(json!({"schema": project, "tables": []})))
    }

    fn expose<'a>(&'a self, project: &'a str, manifest: &'a Value) -> Pending<'a, Value> {
        let none = json!({"tables": [], "views": [], "rpcs": []});
        let written = self.write(json!([project, "expose", manifest]));
        now(written.map(|()| json!({"applied": none, "dropped": none})))
    }

    fn exposed<'a>(&'a self, project: &'a str) -> Pending<'a, Value> {
        let lines = self.lines();
        let last = lines.iter().rev().find(|line| line[0] == project && line[1] == "expose");
        now(Ok(json!({"manifest": last.map(|line| &line[2]), "source": "applied"})))
    }

    fn validate_expose<'a>(
        &'a self,
        project: Option<&'a str>,
        _manifest: &'a Value,
        _migration_sql: Option<&'a str>,
    ) -> Pending<'a, Value> {
        now(Ok(json!({"has_errors": false, "errors": [], "warnings": [], "alone": project.is_none()})))
    }
}

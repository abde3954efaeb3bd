//! The PostgreSQL slice of projects: migrations, SQL, schema, expose manifests.
//!
//! One database for all projects; each has one schema and one login role of the same name, which owns the
//! schema and nothing else. What a project sends is only ever run in a session that was authenticated as
//! that role, never by way of `SET ROLE` or `SET SESSION AUTHORIZATION`, which any statement can reset. The
//! administrator's session runs our own statements only, with every name qualified. What projects can see of
//! each other is the catalogue: names of schemas, roles and tables, as in every PostgreSQL database.
//!
//! The registry of migrations and the manifests are kept in the schema `run402`, out of projects' reach.

mod admin;
mod error;
pub mod expose;
mod migrations;
mod names;
mod run;
mod schema;
mod session;
pub mod split;
mod values;

pub use admin::{Database, Limits};
pub use error::{DatabaseError, SqlFault};
pub use migrations::{Applied, Migration, MigrationPlan, Named, Transaction};
pub use names::ProjectSchema;
pub use run::{Field, SqlResult};
pub use schema::{Column, Constraint, Policy, Schema, Table};

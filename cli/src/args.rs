//! The command line, as typed: what each flag means and where its default comes from.
//!
//! Output: `Args`, whose values are checked for shape only. Values that a daemon must judge (does the
//! project exist, is the timeout in range) stay as they are.

use crate::duration::Millis;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Run commands in a sandbox: isolated, limited, and gone without a trace when they end.
///
/// Talks to the daemon that --url names. Without one it uses the daemon of this user, and starts it when
/// none is running, so nothing has to be set up first.
#[derive(Debug, Parser)]
#[command(name = "sandboxctl", version, propagate_version = false, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Globals {
    /// The daemon: http://host:port or unix:/path
    #[arg(long, global = true, env = "SANDBOXD_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The daemon's token; set SANDBOXD_TOKEN rather than this, other users can read arguments
    #[arg(long, global = true, env = "SANDBOXD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<Secret>,
    /// State directory of the daemon that is started when there is none
    #[arg(long, global = true, env = "SANDBOXD_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A text that is not shown in debug output.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl FromStr for Secret {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command and show its output as it comes
    ///
    /// One argument is a shell line, several are the words of a command that no shell sees. The exit
    /// status is the command's own; 124 timed out, 125 the sandbox could not run it, 126 not executable,
    /// 127 not found, 128+n ended by signal n (137 out of memory). Ctrl-C kills the run, twice quits.
    Run(RunArgs),
    /// Build a folder in the sandbox, deploy what was built, and print its URL
    ///
    /// What to build and deploy is in the folder's sandbox.toml; without one, a package with a build
    /// script is built by its own package manager, and anything else is a site as it is. With nothing
    /// configured the release goes to a local gateway, which is started when there is none.
    Up(UpArgs),
    /// Deploy a site, a function or a whole release, and look at what was deployed
    #[command(subcommand)]
    Deploy(DeployCommand),
    /// Serve the run402 API on this computer, with real storage
    Gateway(GatewayArgs),
    /// Serve the Model Context Protocol on standard input and output, for an agent that starts this
    ///
    /// The tools are those of the daemon at /mcp, which is started when there is none. Without --project the
    /// current directory is the project that tools mean when they name none.
    Mcp(McpArgs),
    /// Call a tool of the run402 gateway; without one, list them
    #[command(name = "run402")]
    Tool(ToolArgs),
    /// List runs
    Ps(PsArgs),
    /// Print what a run wrote
    Logs(LogsArgs),
    /// End runs, or send them a signal
    Kill(KillArgs),
    /// Create, list, show and remove projects
    #[command(subcommand)]
    Project(ProjectCommand),
    /// List, show, check and explain policies; needs no daemon
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say what this host can enforce, and how to mend what it cannot
    Doctor,
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Versions of this program and of the daemon
    Version {
        /// Only this program's; asks no daemon
        #[arg(long)]
        client: bool,
    },
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Become another program in a session of its own
    #[command(name = "__detach", hide = true)]
    Detach {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ToolArgs {
    /// The tool, such as run_sql, and its arguments: --NAME VALUE for each, or --input JSON (- reads standard input)
    ///
    /// With --describe, the tool's words and the schema of its arguments are printed instead.
    #[arg(value_name = "TOOL", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct McpArgs {
    /// The project that tools mean when they name none, by id or url_id [default: the current directory as --dir]
    #[arg(long, short = 'p', value_name = "PROJECT", conflicts_with = "dir")]
    pub(crate) project: Option<String>,
    /// Use this folder as the workspace, at /home/user/project
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Only these groups of tools, such as run,files,deploy,database [default: all]
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub(crate) tools: Vec<String>,
    /// Print what a client is configured with to start this, and end
    #[arg(long, value_name = "CLIENT")]
    pub(crate) print_config: Option<McpClient>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum McpClient {
    ClaudeCode,
    Cursor,
    Vscode,
    Codex,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The project, by id or url_id [default: the current directory as --dir]
    #[arg(long, short = 'p', value_name = "PROJECT", conflicts_with = "dir")]
    pub(crate) project: Option<String>,
    /// Use this folder as the workspace, at /home/user/project
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Where the command starts; relative paths start at /home/user/project
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Deadline, such as 90s, 2m or 500ms; at most 300s [default: the policy's]
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Millis>,
    /// A policy by name, or a policy file (a path with a '/' or ending in .toml) [default: the project's]
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) policy: Option<String>,
    /// Set a variable; without '=' its value is taken from this environment
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Give the command this program's standard input, as it comes
    #[arg(long = "interactive", short = 'i')]
    pub(crate) stdin: bool,
    /// Print the receipt to standard error after the run: which isolation was in force
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    /// One argument is a shell line, several are a command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Deploy what is there
    #[arg(long)]
    pub(crate) no_build: bool,
    #[command(flatten)]
    pub(crate) into: IntoArgs,
}

/// Into which project, and in spite of what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct IntoArgs {
    /// The project at the gateway, by id [default: the folder's own, or the active one]
    #[arg(long, short = 'p', value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// Go on in spite of warnings with this code
    #[arg(long = "allow-warning", value_name = "CODE")]
    pub(crate) allow_warnings: Vec<String>,
    /// The same key and the same release are one deploy, however often it is sent
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Only show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeployCommand {
    /// Make a project at the gateway and make it the active one
    Init {
        /// What the project is called
        #[arg(long)]
        name: Option<String>,
        /// Make a wallet first, when there is none
        #[arg(long)]
        new_wallet: bool,
    },
    /// A folder's files become the site
    Site {
        dir: PathBuf,
        #[command(flatten)]
        into: IntoArgs,
    },
    /// A file becomes a function; everything else stays
    Function {
        /// Lower-case letters, digits, _ and -
        name: String,
        /// An ES module whose default export takes a Request and returns a Response
        file: PathBuf,
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
        #[arg(long, value_name = "MB")]
        memory: Option<u32>,
        /// Five fields, as in "0 3 * * *"
        #[arg(long, value_name = "CRON")]
        schedule: Option<String>,
        /// A package that it imports, as npm install takes it: zod, or zod@3
        #[arg(long = "dep", value_name = "PACKAGE")]
        deps: Vec<String>,
        #[command(flatten)]
        into: IntoArgs,
    },
    /// A manifest becomes the release; its file names start at its folder
    Release {
        /// A JSON file
        manifest: PathBuf,
        #[command(flatten)]
        into: IntoArgs,
    },
    /// What was deployed, the newest first
    List {
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: u32,
    },
    /// What differs between two releases: ids, active, or empty
    Diff {
        #[arg(default_value = "empty")]
        from: String,
        #[arg(default_value = "active")]
        to: String,
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Carry a deploy on that was interrupted
    Resume {
        operation: String,
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
    },
    /// What a function has printed lately
    Logs {
        name: String,
        /// At most this many lines, the newest
        #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
        tail: u32,
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Set, list and remove secrets of a project's functions
    #[command(subcommand)]
    Secret(SecretCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret; its value is read from standard input
    Set {
        key: String,
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Names of the secrets; values are never shown
    List {
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Remove a secret
    Rm {
        key: String,
        #[arg(long, short = 'p', value_name = "PROJECT")]
        project: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct GatewayArgs {
    /// Where it listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = crate::gateway::DEFAULT_ADDRESS)]
    pub(crate) listen: std::net::SocketAddr,
    /// A PostgreSQL database for the database slice of releases
    #[arg(long, value_name = "URL", env = "RUN402_DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<Secret>,
    /// End the gateway that was started by itself
    #[arg(long, conflicts_with = "database_url")]
    pub(crate) stop: bool,
    /// For a daemon: be its gateway until standard input ends, or say where one is already
    #[arg(long, hide = true, conflicts_with = "stop")]
    pub(crate) embedded: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also runs that have ended
    #[arg(long, short = 'a')]
    pub(crate) all: bool,
    /// Only this project's
    #[arg(long, short = 'p', value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// At most this many, newest first
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Go on until the run ends
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// A run's id, or a beginning or end of it that no other run has
    pub(crate) run: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// Send this signal to the command instead of ending the run, such as TERM, SIGINT or 10
    #[arg(long, short = 's', value_name = "SIGNAL")]
    pub(crate) signal: Option<SignalName>,
    /// Run ids, or beginnings or ends of them that no other run has
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<String>,
}

/// A signal in the spelling of signal(7): `SIGTERM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignalName(pub(crate) String);

impl FromStr for SignalName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        use nix::sys::signal::Signal;
        let signal = match text.parse::<i32>() {
            Ok(number) => Signal::try_from(number),
            Err(_) => {
                let name = text.to_ascii_uppercase();
                format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name)).parse()
            }
        };
        signal
            .map(|known| Self(known.as_str().to_owned()))
            .map_err(|_| "not a signal; try TERM, INT, HUP, KILL or USR1")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Create a project, or answer the one that already has the folder
    Create {
        /// Shown to people; the url_id is made from it
        name: Option<String>,
        /// Use this folder as the workspace instead of one of the daemon's own
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Name of the policy [default: default]
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
        /// Who may open its preview
        #[arg(long, value_name = "WHO")]
        access: Option<Access>,
    },
    /// List projects
    List,
    /// Show one project
    Show { project: String },
    /// Remove a project and its runs; the files too, unless the workspace is a folder given with --dir
    Rm {
        #[arg(required = true)]
        projects: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Access {
    Private,
    Public,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List the policies
    List(PolicyDirs),
    /// Print a policy with everything that it extends resolved, as TOML
    Show {
        /// Name or file
        policy: String,
        #[command(flatten)]
        dirs: PolicyDirs,
    },
    /// Check policy files, or all policies; exit 1 when one is wrong
    Check {
        /// Files or names [default: every known policy]
        policies: Vec<String>,
        /// Also run the [[test]] claims in a sandbox
        #[arg(long)]
        run: bool,
        #[command(flatten)]
        dirs: PolicyDirs,
    },
    /// Say what a policy allows, rule by rule, or about single things
    Explain {
        /// Name or file
        policy: String,
        /// A path (/x, ~/x, ./x), a host (example.com:443) or a variable (PATH, $name)
        about: Vec<String>,
        #[command(flatten)]
        dirs: PolicyDirs,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyDirs {
    /// A folder of further policy files
    #[arg(long = "policies", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it; it cannot be read again
    Create {
        /// Says what it is for, in lists
        name: Option<String>,
        /// What it may do
        #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
        scopes: Vec<ScopeName>,
        /// Only for this project; may repeat [default: all projects]
        #[arg(long = "project", short = 'p', value_name = "PROJECT")]
        projects: Vec<String>,
    },
    /// List tokens, without their secrets
    List,
    /// Make tokens useless
    Revoke {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ScopeName {
    Run,
    Files,
    Deploy,
    Admin,
}

/// Whether a word of a wrong command line is one of our subcommands.
pub(crate) fn is_subcommand(word: &str) -> bool {
    Args::command().get_subcommands().any(|command| command.get_name() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> RunArgs {
        let words = ["sandboxctl", "run"].iter().chain(words);
        match Args::try_parse_from(words).expect("the words parse").command {
            Command::Run(run) => run,
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn everything_after_the_command_belongs_to_it() {
        assert_eq!(run(&["ls", "-la", "--json"]).command, ["ls", "-la", "--json"]);
        assert_eq!(run(&["--", "--odd", "-x"]).command, ["--odd", "-x"]);
        assert_eq!(run(&["-i", "--", "cat", "--", "x"]).command, ["cat", "--", "x"]);
        assert_eq!(run(&["npm ci && npm run build"]).command, ["npm ci && npm run build"]);
    }

    #[test]
    fn flags_before_the_command_are_ours() {
        let run = run(&["--dir", "site", "--timeout", "90s", "--env", "A=1", "--env", "B", "-v", "make", "-j2"]);
        assert_eq!(run.dir, Some(PathBuf::from("site")));
        assert_eq!(run.timeout, Some(Millis(90_000)));
        assert_eq!(run.env, ["A=1", "B"]);
        assert!(run.verbose && !run.stdin);
        assert_eq!(run.command, ["make", "-j2"]);
    }

    #[test]
    fn wrong_lines_are_refused() {
        for words in [
            vec!["sandboxctl", "run"],
            vec!["sandboxctl", "run", "--unknown", "true"],
            vec!["sandboxctl", "run", "--project", "a", "--dir", "b", "true"],
            vec!["sandboxctl", "run", "--timeout", "soon", "true"],
            vec!["sandboxctl", "kill"],
            vec!["sandboxctl", "kill", "--signal", "NOPE", "run"],
            vec!["sandboxctl", "token", "create", "--scope", "root"],
        ] {
            assert!(Args::try_parse_from(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn signals_have_many_spellings_and_one_name() {
        for text in ["TERM", "term", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse(), Ok(SignalName("SIGTERM".to_owned())), "{text}");
        }
        assert!("0".parse::<SignalName>().is_err());
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        let args = Args::try_parse_from(["sandboxctl", "--token", "sbx_secret", "ps"]).expect("parses");
        assert!(!format!("{args:?}").contains("secret"));
    }
}

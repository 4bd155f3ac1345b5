//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tandem_types::{GroupId, NodeName, Role};

/// Said to whoever asks what there is.
const BEGIN: &str = "\
To begin:
  tandem models pull --default   fetch the models that fit this machine
  tandem up --detach             start its groups
  tandem ask \"...\"               ask something";

/// A private assistant on your own machines.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, propagate_version = true, after_help = BEGIN)]
pub(crate) struct Cli {
    /// Folder of everything Tandem keeps [default: $XDG_DATA_HOME/tandem or ~/.local/share/tandem]
    #[arg(long, global = true, env = "TANDEM_DATA", hide_env_values = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start this machine's groups and stay until they have ended
    Up(UpArgs),
    /// End this machine's groups in order
    Down(DownArgs),
    /// Ask something and print the answer as it is written
    Ask(AskArgs),
    /// Show node, groups and agents
    Status(StatusArgs),
    /// Watch nodes, groups, agents, restarts and latencies, live
    Top(TopArgs),
    /// Show what groups have logged
    Logs(LogsArgs),
    /// Show what a fleet file means, and everything that is wrong with it
    Plan(PlanArgs),
    /// Check health the way a container's health check does: exit code 0 is healthy, 1 is not
    Probe(ProbeArgs),
    /// End a group and start it again, also after it was given up; or all, one after the other, while the fleet goes on
    Restart(RestartArgs),
    /// Fetch, list, check and delete models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Look for what is wrong on this machine and say how to mend it
    Doctor(DoctorArgs),
    /// Have systemd start this machine's node with the machine, and again when it died
    Install(InstallArgs),
    /// Take the service away that `tandem install` made; groups end in order, what is kept stays
    Uninstall(UninstallArgs),
    /// Found a fleet of several machines here: this machine keeps its certificate authority
    Init(InitArgs),
    /// Invite another machine: prints the command to type there
    Invite(InviteArgs),
    /// Shut a machine out of the fleet
    Revoke(RevokeArgs),
    /// Show who belongs to the fleet, who is invited, and how long certificates hold
    Trust(TrustArgs),
    /// Make this machine a node of another machine's fleet
    Join(JoinArgs),
    /// Run one group in this process; the node starts it
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// Which fleet file, which of its nodes.
#[derive(Debug, Clone, Args)]
pub(crate) struct FleetArgs {
    /// The fleet file; left out: one machine, no GPU, everything on loopback
    #[arg(value_name = "FLEET", env = "TANDEM_FLEET", hide_env_values = true)]
    pub(crate) fleet: Option<PathBuf>,
    /// Which node of the fleet this machine is [default: the only one, or the one named like this machine]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// Run all groups in one process instead of one process each
    #[arg(long)]
    pub(crate) one_process: bool,
    /// Return when everything has started; the node goes on in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// Leave the terminal: what `--detach` starts
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// The group, such as `coordination`
    #[arg(required_unless_present = "all")]
    pub(crate) group: Option<String>,
    /// Every group in the order of a start, each when the one before is ready again; ends at one that does not come back
    #[arg(long, conflicts_with = "group")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The words; left out or `-`: read from standard input
    pub(crate) text: Vec<String>,
    /// Go on with this conversation, or begin one by this name
    #[arg(long, value_name = "NAME")]
    pub(crate) session: Option<String>,
    /// One JSON object for each event of the turn
    #[arg(long)]
    pub(crate) json: bool,
    /// Show the path of the answer with its times even when the output is no terminal
    #[arg(long)]
    pub(crate) path: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How groups ended, the last twenty times each; of one group with all that was kept as evidence
    #[arg(long, value_name = "GROUP", num_args = 0..=1)]
    pub(crate) exits: Option<Option<String>>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show one picture and end; so it does anyway where the output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
    /// One picture as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Time between two looks, such as `1s` or `1m`
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = pause)]
    pub(crate) every: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// One group, such as `coordination`, or `node`; left out: all
    pub(crate) group: Option<String>,
    /// Stay and show what is logged from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many lines of the past to show
    #[arg(short = 'n', long, default_value_t = 40, value_name = "LINES")]
    pub(crate) lines: usize,
    /// The lines as they were written
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// As JSON
    #[arg(long, conflicts_with = "mermaid")]
    pub(crate) json: bool,
    /// As a Mermaid diagram
    #[arg(long)]
    pub(crate) mermaid: bool,
    /// Every agent with what it needs and uses
    #[arg(long, conflicts_with_all = ["json", "mermaid"])]
    pub(crate) agents: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// One group, such as `coordination` or `solo/coordination`; left out: all of this node
    pub(crate) group: Option<String>,
    /// The fleet file that says where groups listen; left out: that of the running node
    #[arg(long, value_name = "FLEET", env = "TANDEM_FLEET", hide_env_values = true)]
    pub(crate) fleet: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Every model of the catalogue and what is here of it; while the fleet runs also adapters, and what roles are bound to
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model and check it
    Pull {
        /// Names from the catalogue
        #[arg(required_unless_present = "default", conflicts_with = "default")]
        names: Vec<String>,
        /// Every model that the fleet's roles choose on this machine
        #[arg(long)]
        default: bool,
        /// With --default: the fleet file
        #[arg(long, value_name = "FLEET", env = "TANDEM_FLEET", hide_env_values = true)]
        fleet: Option<PathBuf>,
    },
    /// Delete a model's files
    Rm {
        /// Names from the catalogue
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Have models of the running fleet answer a suite of questions: how well, how fast
    Evaluate {
        /// Names of models
        #[arg(required_unless_present = "adapter")]
        names: Vec<String>,
        /// An adapter laid over them; alone: over the model it was made for
        #[arg(long)]
        adapter: Option<String>,
        /// The suite: `chat`, short and plain, or `chitchat`, 120 conversations as ChitchatAgent has them; left out: `chat`
        #[arg(long)]
        suite: Option<String>,
        /// As JSON, with every answer
        #[arg(long)]
        json: bool,
    },
    /// Make an adapter (LoRA, GGUF) known to the running fleet, which keeps a copy of its file
    AddAdapter {
        /// Its file
        file: PathBuf,
        /// The model it was made for
        #[arg(long, value_name = "MODEL")]
        base: String,
        /// What to call it; left out: as its file
        #[arg(long)]
        name: Option<String>,
        /// Its licence, by its SPDX name
        #[arg(long, default_value = "unknown")]
        licence: String,
    },
    /// Lay an adapter over the model of a role of the running fleet
    Publish {
        /// The adapter
        adapter: String,
        /// The role, such as `llm.fast`
        #[arg(long)]
        role: Role,
        /// How many of a hundred conversations get it; the others get what all had before
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
    },
    /// Take the adapter of a role away; where it has none, bind the role to the model it had before
    Rollback {
        /// The role, such as `llm.fast`
        role: Role,
    },
    /// Check the files of models against their hashes, whatever was found before
    Verify {
        /// Names from the catalogue; left out: all that are here
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
    /// Print the unit and change nothing
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// What `tandem invite` printed there [default: asked for, so that it is in no list of processes]
    #[arg(value_name = "INVITATION")]
    pub(crate) invitation: Option<String>,
    /// Fleet file that this machine means to run; it must mean what the other machine's does [default: the other machine's]
    #[arg(long, value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// The other machine, by its name in the fleet file
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeName,
    /// How long the invitation holds, such as `30s`, `15m` or `2h`; at most a day
    #[arg(long = "for", value_name = "TIME", default_value = "15m", value_parser = time)]
    pub(crate) lifetime: Duration,
    /// Where the other machine reaches this one, may be repeated [default: where the link of this node listens]
    #[arg(long = "at", value_name = "HOST:PORT")]
    pub(crate) addresses: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The machine, by its name in the fleet file
    #[arg(value_name = "NODE")]
    pub(crate) node: NodeName,
}

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads a time span: a number and its unit.
fn time(text: &str) -> Result<Duration, String> {
    let expected = || "write a number and its unit, such as 30s, 15m or 2h".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let number: u64 = text[..at].parse().map_err(|_| expected())?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(expected)
}

/// Reads a time between two looks: it takes some.
fn pause(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| if time.is_zero() { Err("write at least 1s".into()) } else { Ok(time) })
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Which group: `node/group`
    pub(crate) group: GroupId,
    /// The fleet file
    #[arg(long)]
    pub(crate) fleet: PathBuf,
    /// How the fleet file is called towards people
    #[arg(long)]
    pub(crate) fleet_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn time_spans_have_a_unit() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("2h", 7_200), ("0s", 0)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "15", "m", "15 m", "15min", "-1s", "1d", "99999999999999999999s", "9999999999999999999h"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(pause("0s").is_err() && pause("1s").is_ok());
    }
}

//! The command line: names and flags are a contract.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Tahoe-LAFS client that mounts directories.
#[derive(Debug, Parser)]
#[command(name = "tahoefs", version)]
pub struct Cli {
    /// The node directory [default: $TAHOEFS_NODE_DIRECTORY, ~/.tahoefs or ~/.tahoe]
    #[arg(short = 'd', long, global = true, value_name = "DIR")]
    pub node_directory: Option<PathBuf>,
    /// Say more on standard error, a mount in its log: what is done; twice each request too, three times everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a node directory with an embedded grid
    Init(Init),
    /// The embedded grid's stores
    #[command(subcommand)]
    Store(Store),
    /// Write all that is needed to recover into one file
    ExportKeys {
        /// The file, which must not exist
        file: PathBuf,
    },
    /// Make a node directory from exported keys and adopt stores
    ImportKeys {
        /// What export-keys wrote
        file: PathBuf,
        /// A store to adopt; may be given several times
        #[arg(long = "store", value_name = "DIR")]
        stores: Vec<PathBuf>,
    },
    /// Mount a directory
    Mount(Mount),
    /// Store what is left, then unmount
    Unmount {
        /// Where it is mounted
        mountpoint: PathBuf,
        /// Unmount without waiting; say what is left in the journal, for the next mount
        #[arg(long)]
        force: bool,
    },
    /// Wait until everything below a mounted path is on the grid
    Flush {
        /// A path in a mount [default: all mounts]
        path: Option<PathBuf>,
    },
    /// Show queue, operations, servers and cache
    Status {
        /// A mount [default: all, and the servers]
        mountpoint: Option<PathBuf>,
        /// Show it again and again
        #[arg(long)]
        watch: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for what is wrong, and say what to do about it
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new directory and an alias for it
    CreateAlias {
        /// The alias
        alias: String,
    },
    /// Add an alias for a capability, read from standard input
    AddAlias {
        /// The alias
        alias: String,
        /// Read the capability from this file
        #[arg(long, value_name = "FILE")]
        cap_file: Option<PathBuf>,
    },
    /// List the aliases
    ListAliases {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a directory; without WHERE its capability is printed
    Mkdir {
        /// The format of the directory
        #[arg(long, value_enum, ignore_case = true)]
        format: Option<DirFormat>,
        /// alias:path
        #[arg(value_name = "WHERE")]
        place: Option<String>,
    },
    /// List a directory
    Ls {
        /// Show types, sizes and times
        #[arg(short)]
        long: bool,
        /// Print JSON
        #[arg(long, conflicts_with = "long")]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Fetch a file
    Get {
        /// Read the capability from this file, in WHERE's place
        #[arg(long, value_name = "FILE")]
        cap_file: Option<PathBuf>,
        /// WHERE (alias:path, or - for a capability on standard input), then FILE (- or none: standard output)
        #[arg(value_name = "WHERE [FILE|-]", num_args = 0..=2)]
        operands: Vec<String>,
    },
    /// Store a file; without WHERE its capability is printed
    Put(Put),
    /// Copy files and directories to the grid, from it, or within it
    Cp(Cp),
    /// Move a name to another, or into a directory
    Mv(Mv),
    /// Give what a name or a capability stands for another name
    Ln(Ln),
    /// Remove a name from its directory
    #[command(visible_alias = "unlink")]
    Rm {
        /// alias:path
        #[arg(value_name = "WHERE")]
        place: String,
    },
}

/// `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Stores to make
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub stores: u16,
    /// Shares that suffice to read a file [default: three fifths of the shares]
    #[arg(long, value_name = "K")]
    pub needed: Option<u16>,
    /// Stores that must hold shares before an upload counts as done [default: all]
    #[arg(long, value_name = "H")]
    pub happy: Option<u16>,
    /// Shares of each file [default: one for each store]
    #[arg(long, value_name = "N")]
    pub total: Option<u16>,
}

/// `store`.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// List the stores
    List,
    /// Add a store; an existing one is taken as it is
    Add {
        /// Its directory
        dir: PathBuf,
    },
    /// Move a store
    Move {
        /// The store, as `store list` shows it
        name: String,
        /// Its new directory
        dir: PathBuf,
    },
    /// Take a store off the list; its directory stays, and `add` takes it again
    Remove {
        /// The store, as `store list` shows it
        name: String,
    },
}

/// `mount`.
#[derive(Debug, Args)]
pub struct Mount {
    /// Mount options, with commas
    #[arg(short = 'o', value_name = "OPT,…")]
    pub options: Vec<String>,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Read the capability from this file, in WHAT's place
    #[arg(long, value_name = "FILE")]
    pub cap_file: Option<PathBuf>,
    /// WHAT (alias:path, or - for a capability on standard input; none is tahoe:, made if absent), then MOUNTPOINT
    #[arg(value_name = "[WHAT] MOUNTPOINT", num_args = 1..=2, required = true)]
    pub operands: Vec<String>,
}

/// `put`.
#[derive(Debug, Args)]
pub struct Put {
    /// The format of a new file
    #[arg(long, value_enum, ignore_case = true)]
    pub format: Option<FileFormat>,
    /// The RSA key of a new mutable file, as PEM
    #[arg(long, value_name = "FILE")]
    pub private_key_path: Option<PathBuf>,
    /// Read a mutable file's capability from this file, in WHERE's place
    #[arg(long, value_name = "FILE")]
    pub cap_file: Option<PathBuf>,
    /// Print how the upload went, as JSON
    #[arg(long)]
    pub json: bool,
    /// FILE (- or none: standard input), then WHERE (alias:path, or - for a capability on standard input)
    #[arg(value_name = "[FILE|-] [WHERE]", num_args = 0..=2)]
    pub operands: Vec<String>,
}

/// `cp`.
#[derive(Debug, Args)]
pub struct Cp {
    /// Copy directories with all that is in them, and links as links
    #[arg(short, long)]
    pub recursive: bool,
    /// Make pipes, sockets and devices too when copying from the grid, which are skipped otherwise
    #[arg(long)]
    pub special: bool,
    /// Read a capability from this file, as the first FROM
    #[arg(long, value_name = "FILE")]
    pub cap_file: Option<PathBuf>,
    /// Print what was copied, as JSON
    #[arg(long)]
    pub json: bool,
    /// Local paths, alias:path, or - for a capability on standard input; the last is where it goes
    #[arg(value_name = "FROM… TO", num_args = 1.., required = true)]
    pub operands: Vec<OsString>,
}

/// `mv`.
#[derive(Debug, Args)]
pub struct Mv {
    /// alias:path
    #[arg(value_name = "FROM")]
    pub from: String,
    /// alias:path, or - for the capability of a directory on standard input
    #[arg(value_name = "TO")]
    pub to: String,
}

/// `ln`.
#[derive(Debug, Args)]
pub struct Ln {
    /// Read the capability from this file, in FROM's place
    #[arg(long, value_name = "FILE")]
    pub cap_file: Option<PathBuf>,
    /// FROM (alias:path, or - for a capability on standard input), then TO
    #[arg(value_name = "FROM TO", num_args = 1..=2, required = true)]
    pub operands: Vec<String>,
}

/// Where a command reads.
#[derive(Debug, Args)]
pub struct At {
    /// Read the capability from this file, in WHERE's place
    #[arg(long, value_name = "FILE", conflicts_with = "place")]
    pub cap_file: Option<PathBuf>,
    /// alias:path, or - for a capability on standard input [default: tahoe:]
    #[arg(value_name = "WHERE")]
    pub place: Option<String>,
}

/// The formats of directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum DirFormat {
    /// Rewritten whole.
    Sdmf,
    /// Rewritten in part.
    Mdmf,
}

/// The formats of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum FileFormat {
    /// Immutable.
    Chk,
    /// Mutable, rewritten whole.
    Sdmf,
    /// Mutable, rewritten in part.
    Mdmf,
}

//! Where the node directory is and what stands where in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{ConfigError, make_private_dir};

/// A node directory: the paths of what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDir {
    path: PathBuf,
}

/// What [`locate`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// A node directory.
    Found(NodeDir),
    /// Nothing is there, or an empty directory: a node directory may be made.
    Absent(NodeDir),
}

/// Finds the node directory: `given` (the `-d` option), `$TAHOEFS_NODE_DIRECTORY`, `~/.tahoefs` if it exists, `~/.tahoe`
/// if it exists, else `~/.tahoefs`, which is not there yet. `env` looks up an environment variable.
///
/// # Errors
/// [`ConfigError::NotANodeDir`] for a directory that holds something else, and when `$HOME` is needed but not set.
pub fn locate(given: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Result<Located, ConfigError> {
    let path = match given.map(Path::to_owned).or_else(|| nonempty(env("TAHOEFS_NODE_DIRECTORY")).map(PathBuf::from)) {
        Some(path) => path,
        None => {
            let home = nonempty(env("HOME"))
                .map(PathBuf::from)
                .ok_or_else(|| ConfigError::Invalid("$HOME is not set: name the node directory with -d DIR".into()))?;
            [".tahoefs", ".tahoe"]
                .iter()
                .map(|name| home.join(name))
                .find(|p| p.is_dir())
                .unwrap_or_else(|| home.join(".tahoefs"))
        }
    };
    let path = std::path::absolute(&path).map_err(|e| ConfigError::io(&path, &e))?;
    let dir = NodeDir { path };
    if dir.tahoe_cfg().is_file() {
        return Ok(Located::Found(dir));
    }
    let is_empty = match std::fs::read_dir(&dir.path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(ConfigError::io(&dir.path, &e)),
    };
    if is_empty { Ok(Located::Absent(dir)) } else { Err(ConfigError::NotANodeDir(dir.path)) }
}

fn nonempty(value: Option<OsString>) -> Option<OsString> {
    value.filter(|v| !v.is_empty())
}

impl NodeDir {
    /// The node directory at `path`, whatever is there.
    pub fn at(path: impl Into<PathBuf>) -> NodeDir {
        NodeDir { path: path.into() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `tahoe.cfg`.
    pub fn tahoe_cfg(&self) -> PathBuf {
        self.path.join("tahoe.cfg")
    }

    /// `private/NAME`.
    pub fn private(&self, name: &str) -> PathBuf {
        self.path.join("private").join(name)
    }

    /// `tahoefs/NAME`: what is ours alone. `own("")` is the folder itself.
    pub fn own(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.join("tahoefs") } else { self.path.join("tahoefs").join(name) }
    }

    /// Makes the directory and the subfolders that hold secrets, mode 0700.
    ///
    /// # Errors
    /// One could not be made.
    pub fn make(&self) -> Result<(), ConfigError> {
        make_private_dir(&self.path)?;
        make_private_dir(&self.path.join("private"))?;
        make_private_dir(&self.own(""))
    }

    /// Makes `tahoefs/NAME` (mode 0700) where it is missing and returns its path.
    ///
    /// # Errors
    /// It could not be made.
    pub fn make_own(&self, name: &str) -> Result<PathBuf, ConfigError> {
        let path = self.own(name);
        make_private_dir(&path)?;
        Ok(path)
    }
}

impl Located {
    /// The node directory, which must be there.
    ///
    /// # Errors
    /// [`ConfigError::NoNodeDir`].
    pub fn existing(self) -> Result<NodeDir, ConfigError> {
        match self {
            Located::Found(dir) => Ok(dir),
            Located::Absent(dir) => Err(ConfigError::NoNodeDir(dir.path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_that_exists_is_taken() {
        let top = tempfile::tempdir().unwrap();
        let home = top.path().join("home");
        fs::create_dir(&home).unwrap();
        let env = |name: &str| (name == "HOME").then(|| home.clone().into_os_string());
        let dir = |name: &str| NodeDir::at(home.join(name));
        assert_eq!(locate(None, env).unwrap(), Located::Absent(dir(".tahoefs")));
        assert_eq!(locate(None, env).unwrap().existing(), Err(ConfigError::NoNodeDir(home.join(".tahoefs"))));

        fs::create_dir(home.join(".tahoe")).unwrap();
        assert_eq!(locate(None, env).unwrap(), Located::Absent(dir(".tahoe")));
        fs::write(home.join(".tahoe/tahoe.cfg"), "").unwrap();
        assert_eq!(locate(None, env).unwrap(), Located::Found(dir(".tahoe")));
        fs::create_dir(home.join(".tahoefs")).unwrap();
        fs::write(home.join(".tahoefs/notes"), "").unwrap();
        assert_eq!(locate(None, env), Err(ConfigError::NotANodeDir(home.join(".tahoefs"))));

        let named = top.path().join("named");
        let env = |name: &str| (name == "TAHOEFS_NODE_DIRECTORY").then(|| named.clone().into_os_string());
        assert_eq!(locate(None, env).unwrap(), Located::Absent(NodeDir::at(&named)));
        let flag = top.path().join("flag");
        assert_eq!(locate(Some(&flag), env).unwrap(), Located::Absent(NodeDir::at(&flag)));
        assert!(locate(None, |_| None).is_err());
    }
}

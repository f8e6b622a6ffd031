//! What makes installers install into a prepared environment, and programs find it there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The variables of the environment in `folder`, for this `python`: its version, if it is installed.
pub fn of(folder: &Path, python: Option<&str>) -> Vec<(&'static str, OsString)> {
    let existing = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let prefix = folder.join("python");
    let library = folder.join("r");
    let bins = ["bin", "python/bin", "python/local/bin"].map(|bin| folder.join(bin));
    let packages = python.map(|version| site_packages(&prefix, version)).unwrap_or_default();
    let mut variables = vec![
        ("FARROW_PREPARED", folder.into()),
        ("R_LIBS_USER", library.clone().into()),
        // A target instead of a prefix breaks pip when it builds from source.
        ("PIP_PREFIX", prefix.into()),
        // Else pip removes what is installed elsewhere in another version.
        ("PIP_IGNORE_INSTALLED", "1".into()),
        ("PIP_USER", "0".into()),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1".into()),
        ("PATH", before(existing("PATH").as_deref(), &bins)),
        ("PYTHONPATH", before(existing("PYTHONPATH").as_deref(), &packages)),
    ];
    // It goes before R_LIBS_USER where it is set.
    if let Some(libraries) = std::env::var_os("R_LIBS") {
        let libraries = Some(&*libraries).filter(|libraries| !libraries.is_empty());
        variables.push(("R_LIBS", before(libraries, &[library])));
    }
    variables
}

/// Where pip puts packages below a prefix: everywhere, and on Debian.
fn site_packages(prefix: &Path, version: &str) -> Vec<PathBuf> {
    let mut numbers = version.split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Vec::new();
    };
    ["lib/pythonX/site-packages", "local/lib/pythonX/dist-packages"]
        .map(|path| prefix.join(path.replace('X', &format!("{major}.{minor}"))))
        .into()
}

/// These folders, and behind them what the variable holds already.
fn before(existing: Option<&OsStr>, folders: &[PathBuf]) -> OsString {
    let folders: Vec<&OsStr> =
        folders.iter().map(|folder| folder.as_os_str()).chain(existing).collect();
    folders.join(OsStr::new(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_before_what_a_variable_holds() {
        let folders = ["/a", "/b"].map(PathBuf::from);
        assert_eq!(before(Some("/c:/d".as_ref()), &folders), "/a:/b:/c:/d");
        assert_eq!(before(None, &folders), "/a:/b");
        assert_eq!(before(Some("/c".as_ref()), &[]), "/c");
    }

    #[test]
    fn packages_are_found_for_the_version_of_python_that_is_there() {
        let found = |python| {
            let variables = of(Path::new("/env"), python);
            let path = variables.into_iter().find(|(name, _)| *name == "PYTHONPATH").unwrap().1;
            path.into_string().unwrap()
        };
        let paths = "/env/python/lib/python3.11/site-packages:\
            /env/python/local/lib/python3.11/dist-packages";
        assert!(found(Some("3.11.4")).starts_with(paths), "{}", found(Some("3.11.4")));
        assert!(!found(None).contains("/env"));
    }
}

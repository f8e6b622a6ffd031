//! Elements that are paths which match patterns.

use std::os::unix::ffi::OsStrExt;

use glob::MatchOptions;

use crate::failure::Failure;

/// As a shell does it: a star matches no slash and no leading dot.
const AS_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// The paths that match, as bytes: sorted for each pattern, each path once.
pub fn matching(patterns: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut paths = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for pattern in patterns {
        let mut found = matching_one(pattern)?;
        found.sort();
        paths.extend(found.into_iter().filter(|path| seen.insert(path.clone())));
    }
    Ok(paths)
}

fn matching_one(pattern: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let matches = glob::glob_with(pattern, AS_A_SHELL)
        .map_err(|error| Failure::usage(format!("--glob {pattern}: {error}")))?;
    let found: Result<Vec<_>, _> =
        matches.map(|path| path.map(|path| path.as_os_str().as_bytes().to_vec())).collect();
    let found = found.map_err(|error| Failure::usage(format!("--glob {pattern}: {error}")))?;
    match found.is_empty() {
        true => Err(Failure::usage(format!("--glob {pattern}: matches no path"))
            .remedy("is it relative to this folder? `**` matches any folders")),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn paths_are_sorted_and_stand_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        for name in ["b.csv", "a.csv", ".hidden.csv", "in/c.csv", "x.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let root = folder.path().display().to_string();
        let names = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|p| format!("{root}/{p}")).collect();
            matching(&patterns).map(|paths| {
                let names = paths
                    .iter()
                    .map(|path| String::from_utf8_lossy(&path[root.len() + 1..]).into_owned());
                names.collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(names(&["*.csv"]).unwrap(), "a.csv b.csv");
        assert_eq!(names(&["**/*.csv"]).unwrap(), "a.csv b.csv in/c.csv");
        assert_eq!(names(&["x*", "*.csv", "a*"]).unwrap(), "x.txt a.csv b.csv");
        assert!(format!("{:?}", names(&["*.csv", "*.none"]).unwrap_err()).contains("no path"));
    }
}

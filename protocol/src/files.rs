//! What a job's `files` may hold: the rule that clients check before they upload, and agents before
//! they unpack.

use std::path::{Component, Path};

/// Whether a symbolic link that stands `depth` folders deep leads to a place inside: it is
/// relative, with `..` at its beginning alone and no more of them than lead to the folder itself.
///
/// Further behind, a `..` would leave whatever a link before it leads to, which need not be the
/// folder in which that link stands.
#[must_use]
pub fn link_stays_inside(target: &Path, depth: usize) -> bool {
    let mut up = 0;
    let mut is_down = false;
    target.components().all(|component| match component {
        Component::Normal(_) => {
            is_down = true;
            true
        }
        Component::ParentDir => {
            up += 1;
            !is_down && up <= depth
        }
        Component::CurDir => true,
        Component::RootDir | Component::Prefix(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_may_go_up_at_their_beginning_as_far_as_the_folder() {
        for (target, depth, stays) in [
            ("a", 0, true),
            ("./lib/a", 0, true),
            ("..", 1, true),
            ("../a", 1, true),
            ("./../../lib/a", 2, true),
            ("../../a", 1, false),
            ("../folder/a", 0, false),
            ("lib/../a", 0, false),
            ("../lib/../a", 2, false),
            ("/etc/passwd", 3, false),
        ] {
            assert_eq!(link_stays_inside(Path::new(target), depth), stays, "{target} at {depth}");
        }
    }
}

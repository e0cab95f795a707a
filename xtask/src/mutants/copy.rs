//! A copy of the working tree, with what is not committed, that mutants may be made in: only what changed is written, so that a
//! build of it goes on where it was. Knows nothing of mutants.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Makes `tree` what stands below `root`.
pub(super) fn update(root: &Path, tree: &Path) -> Result<()> {
    let listed = command::output(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root),
    )
    .context("the working tree is read with git")?;
    let files: Vec<&str> = listed.split('\0').filter(|file| !file.is_empty()).collect();
    for file in &files {
        let (from, to) = (root.join(file), tree.join(file));
        match fs::read(&from) {
            Ok(bytes) if fs::read(&to).is_ok_and(|there| there == bytes) => {}
            Ok(_) => {
                fs::create_dir_all(to.parent().unwrap_or(tree))?;
                // With its mode.
                fs::copy(&from, &to).with_context(|| to.display().to_string())?;
            }
            // Removed and not committed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => _ = fs::remove_file(&to),
            Err(e) => return Err(e).with_context(|| from.display().to_string()),
        }
    }
    forget_removed(tree, tree, &files)
}

fn forget_removed(tree: &Path, dir: &Path, files: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.strip_prefix(tree)?.to_string_lossy().into_owned();
        if path.is_dir() {
            forget_removed(tree, &path, files)?;
        } else if !files.contains(&name.as_str()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

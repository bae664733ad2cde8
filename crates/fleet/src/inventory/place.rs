//! Where a fleet repository has its inventory and its playbook.

use super::Layout;
use super::error::InventoryError;
use super::tree::{self, FileTree, Target};

/// The playbooks that devices run, in the order of looking: the first that is a file. The second
/// is ansible-pull's.
pub const PLAYBOOKS: [&str; 2] = ["site.yml", "local.yml"];

/// Where an inventory may stand in the repository, in the order of looking: the first that is a
/// file or a folder.
pub const INVENTORIES: [&str; 6] =
    ["inventory.yml", "inventory.yaml", "inventory.ini", "inventory", "hosts.yml", "hosts"];

/// The inventory of a fleet repository, with the playbook at its root; `None` if there is none.
///
/// # Errors
/// [`InventoryError::Read`].
pub fn fleet_layout(tree: &dyn FileTree) -> Result<Option<Layout>, InventoryError> {
    for source in INVENTORIES {
        match tree::resolve(tree, source).map_err(InventoryError::read(source))? {
            Target::Nothing => {}
            // One that leaves the repository is for the reader to refuse.
            Target::File { .. } | Target::Folder { .. } | Target::Outside => {
                return Ok(Some(Layout::new(source)));
            }
        }
    }
    Ok(None)
}

/// The playbook of a fleet repository; `None` if there is none.
///
/// # Errors
/// [`InventoryError::Read`].
pub fn playbook(tree: &dyn FileTree) -> Result<Option<&'static str>, InventoryError> {
    for playbook in PLAYBOOKS {
        if let Target::File { .. } = tree::resolve(tree, playbook).map_err(InventoryError::read(playbook))? {
            return Ok(Some(playbook));
        }
    }
    Ok(None)
}

// The folders of this node that VMs share: which of them its configuration allows, asked when a spec is written and again
// at every start, since folders come, go and change their owners in between.
import { invalidField, LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { type VmSharedFolder } from '../../api/vm-shared-folder.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { type GuestSharedFolder } from '../../drivers/driver.ts';
import { findSharedFolder, SharedFolderError, type SharedFolderRules } from '../../host/shared-folder.ts';

export class SharedFolders {
  readonly #rules: SharedFolderRules;

  constructor(rules: SharedFolderRules) {
    this.#rules = rules;
  }

  /** Refuses what can't be shared. */
  async check({ sharedFolders }: Pick<VmSpec, 'sharedFolders'>): Promise<void> {
    for (const [index, folder] of sharedFolders.entries()) await this.#find(folder, index);
  }

  /** The folders as a driver shares them. */
  async resolve(
    { sharedFolders }: Pick<VmSpec, 'sharedFolders'>,
    hardware: Pick<VmHardware, 'sharedFolders'>,
  ): Promise<GuestSharedFolder[]> {
    const resolved: GuestSharedFolder[] = [];
    for (const [index, folder] of sharedFolders.entries()) {
      const model = hardware.sharedFolders.find(({ name }) => name === folder.name)?.model;
      // A guest that is restored has the devices that its memory was saved with.
      if (model === undefined) continue;
      const isReadOnly = folder.access === 'read-only';
      resolved.push({ name: folder.name, model, isReadOnly, path: await this.#find(folder, index) });
    }
    return resolved;
  }

  async #find({ path, access }: VmSharedFolder, index: number): Promise<string> {
    try {
      return await findSharedFolder(path, this.#rules, access === 'read-only');
    } catch (error) {
      if (!(error instanceof SharedFolderError)) throw error;
      throw this.#explain(error, `spec.sharedFolders.${index}.path`);
    }
  }

  #explain({ problem, path, resolved }: SharedFolderError, field: string): LodgeError {
    const isLink = resolved !== path;
    const what = isLink ? `${path} leads to ${resolved}, which` : path;
    switch (problem) {
      case 'not-allowed': {
        const { allowedRoots } = this.#rules;
        const allowed = allowedRoots.length === 0 ? 'allows no folder' : `allows ${allowedRoots.join(', ')}`;
        return withHint(
          invalidField(field, `${what} is in no folder that may be shared`, path),
          `The setting sharedFolders.allowedRoots of this node’s configuration ${allowed}; its administrator can add one.`,
        );
      }
      case 'own-data':
        return withHint(
          invalidField(field, `${what} holds data of Lodge itself`, path),
          'Share another folder, or one inside it.',
        );
      case 'of-root':
        return withHint(
          invalidField(field, `${what} belongs to root, and can only be shared read-only`, path),
          `What the guest writes belongs to the folder’s owner. Give it to an ordinary user: chown USER: ${resolved}. Or set access to read-only.`,
        );
      case 'missing':
        return withHint(invalidField(field, 'does not exist on this node', path), `Make it: mkdir -p ${path}.`);
      case 'no-folder':
        return invalidField(field, `${what} is not a folder`, path);
      case 'unreadable':
        return invalidField(field, `${what} can not be read by Lodge`, path);
    }
  }
}

function withHint(error: LodgeError, hint: string): LodgeError {
  const { message, fields } = error;
  return new LodgeError(error.code, message, { hint, ...(fields ? { fields } : {}) });
}

/** Refuses to save the memory of a guest that has folders shared: what it has open in them is not in its memory. */
export function requireSavableMemory({ name, status }: Pick<Vm, 'name' | 'status'>, what: string): void {
  const folders = status.pinned?.hardware.sharedFolders ?? [];
  if (folders.length === 0) return;
  throw new LodgeError(
    'unsupported',
    `VM ${name} has shared folders (${folders.map((folder) => folder.name).join(', ')}), and can not be ${what}.`,
    {
      hint: 'What its guest has open in them is not in its memory. Stop it, or take the folders out of its spec and restart it.',
    },
  );
}

// Which VM was made from which, as a tree. Pure.
import type { Vm } from '../../api/vm.ts';

function parentOf(vm: Vm): string {
  return vm.status.lineage?.parentId ?? '';
}

function byName(one: Vm, other: Vm): number {
  return one.name.localeCompare(other.name, 'en', { numeric: true });
}

/** The whole family of a VM: up to the first one that is still there, and down from that. */
export function relativesOf(vms: readonly Vm[], vm: Vm): Vm[] {
  const byId = new Map(vms.map((one) => [one.id, one]));
  let root = byId.get(vm.id) ?? vm;
  for (let parent = byId.get(parentOf(root)); parent; parent = byId.get(parentOf(root))) root = parent;
  const family = new Set([root.id]);
  for (let before = 0; before !== family.size;) {
    before = family.size;
    for (const one of vms) if (family.has(parentOf(one))) family.add(one.id);
  }
  return vms.filter((one) => family.has(one.id));
}

/** The VMs that were made from another, or that others were made from, each below the one it was made from. */
export function treeLines(vms: readonly Vm[], text: (vm: Vm) => string): string[] {
  const known = new Set(vms.map((vm) => vm.id));
  const lines: string[] = [];
  const add = (vm: Vm, first: string, rest: string): void => {
    lines.push(`${first}${text(vm)}`);
    const children = vms.filter((one) => parentOf(one) === vm.id).toSorted(byName);
    for (const [index, child] of children.entries()) {
      const isLast = index === children.length - 1;
      add(child, `${rest}${isLast ? '└─ ' : '├─ '}`, `${rest}${isLast ? '   ' : '│  '}`);
    }
  };
  const hasFamily = (vm: Vm): boolean => vm.status.lineage !== null || vms.some((one) => parentOf(one) === vm.id);
  const roots = vms.filter((vm) => !known.has(parentOf(vm)) && hasFamily(vm));
  for (const root of roots.toSorted(byName)) add(root, '', '');
  return lines;
}

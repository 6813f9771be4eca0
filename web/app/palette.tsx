// The command palette: any page, any object by a part of its name, and what can be done with VMs.
import '@mantine/spotlight/styles.layer.css';
import { Spotlight, spotlight, type SpotlightActionData, type SpotlightActionGroupData } from '@mantine/spotlight';
import { useDebouncedValue } from '@mantine/hooks';
import { useQuery } from '@tanstack/react-query';
import { Keyboard, ListChecks, Plus, Search } from 'lucide-react';
import { useEffect, useState } from 'react';
import { canVm, type VmAction } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client, useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { refOf } from '../ui/list-page.tsx';
import { useGo } from '../ui/link.tsx';
import { powerVm, type PowerAction } from '../vm/vm-power.ts';
import { allNouns } from './nouns.ts';

/** Most objects of a kind that are shown. */
const mostOfKind = 6;

const kinds = [
  ['vm', '/vms', 'nav.vms'],
  ['network', '/networks', 'nav.networks'],
  ['securityGroup', '/firewall/security-groups', 'firewall.groups'],
  ['addressSet', '/firewall/address-sets', 'firewall.sets'],
  ['image', '/images', 'nav.images'],
  ['volume', '/volumes', 'nav.volumes'],
  ['template', '/templates', 'nav.templates'],
  ['group', '/groups', 'nav.groups'],
  ['profile', '/profiles', 'nav.profiles'],
] as const;

const quick: readonly PowerAction[] = ['start', 'stop', 'restart', 'pause', 'resume'];

async function find(text: string) {
  const query = { filter: `name~${JSON.stringify(text)}`, limit: mostOfKind };
  const found = await Promise.all(
    kinds.map(async ([kind, path, label]) => ({
      kind,
      path,
      label,
      items: (await client[kind].list({ query })).items,
    })),
  );
  return found;
}

interface PaletteProps {
  /** Opens whenever this changes. */
  asked: number;
  onTasks: () => void;
  onHelp: () => void;
}

export function Palette({ asked, onTasks, onHelp }: PaletteProps) {
  const t = useText();
  const go = useGo();
  const { session } = useSignIn();
  const [typed, setTyped] = useState('');
  const [text] = useDebouncedValue(typed.trim().toLowerCase(), 150);
  const isName = /^[a-z0-9-]{1,63}$/.test(text);
  const found = useQuery({
    queryKey: ['palette', text],
    queryFn: () => find(text),
    enabled: isName && session !== null,
    staleTime: 2000,
  });
  useEffect(() => spotlight.open(), [asked]);
  const power = useAction(({ vm, action }: { vm: Vm; action: PowerAction }) => powerVm(vm, action));

  const pages: SpotlightActionData[] = [
    ...allNouns.map(({ path, label, icon: Icon }) => ({
      id: path,
      label: t(label),
      leftSection: <Icon size={17} />,
      onClick: () => go(path),
    })),
    {
      id: 'create-vm',
      label: t('create.title'),
      leftSection: <Plus size={17} />,
      onClick: () => go('/vms/new'),
    },
    { id: 'tasks', label: t('tasks.drawer'), leftSection: <ListChecks size={17} />, onClick: onTasks },
    { id: 'help', label: t('shortcuts.title'), leftSection: <Keyboard size={17} />, onClick: onHelp },
  ];
  const groups: SpotlightActionGroupData[] = [{ group: t('palette.pages'), actions: pages }];
  for (const { kind, path, label, items } of isName ? (found.data ?? []) : []) {
    if (items.length === 0) continue;
    const noun = allNouns.find((one) => `${path}/`.startsWith(`${one.path}/`));
    const Icon = noun?.icon ?? Search;
    groups.push({
      group: t(label),
      actions: items.map((item) => ({
        id: item.id,
        label: item.name,
        ...(item.project === 'default' ? {} : { description: item.project }),
        leftSection: <Icon size={17} />,
        onClick: () => go(`${path}/${refOf(item)}`),
      })),
    });
    if (kind !== 'vm') continue;
    const vms = items as Vm[];
    groups.push({
      group: t('palette.actions'),
      actions: vms.slice(0, 3).flatMap((vm) =>
        quick
          .filter((action) => canVm(action as VmAction, vm.status.state))
          .map((action) => ({
            id: `${action}-${vm.id}`,
            label: `${sayOr(`vm.action.${action}`, action)} ${vm.name}`,
            onClick: () => power.mutate({ vm, action }),
          })),
      ),
    });
  }
  return (
    <Spotlight
      actions={groups}
      query={typed}
      onQueryChange={setTyped}
      shortcut={null}
      nothingFound={t('palette.nothing')}
      highlightQuery
      scrollable
      maxHeight={460}
      limit={40}
      searchProps={{
        leftSection: <Search size={18} />,
        placeholder: t('palette.placeholder'),
        'aria-label': t('palette.placeholder'),
      }}
    />
  );
}

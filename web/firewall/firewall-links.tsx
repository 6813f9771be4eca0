// Links to what the firewall names, and pages that follow what their contents are worked out from.
import { useQuery } from '@tanstack/react-query';
import { useEffect } from 'react';
import { client } from '../data/client.ts';
import { onChange } from '../data/live.ts';
import { queryClient } from '../data/queries.ts';
import { TextLink } from '../ui/link.tsx';

/** What members and users of groups and sets are worked out from, beside these themselves. */
const sources: ReadonlySet<string> = new Set(['vm', 'network', 'security-group', 'address-set']);
/** Read again at most this often, milliseconds. */
const rereadMs = 1500;

/** Reads what is shown of groups and sets again when a VM or network that may be in them has changed. */
export function useFreshUse(): void {
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    const end = onChange(({ kind }) => {
      if (kind === null || !sources.has(kind)) return;
      timer ??= setTimeout(() => {
        timer = null;
        for (const each of ['security-group', 'address-set']) void queryClient.invalidateQueries({ queryKey: [each] });
      }, rereadMs);
    });
    return () => {
      end();
      if (timer !== null) clearTimeout(timer);
    };
  }, []);
}

/** Most VMs that are offered; others can be typed. */
const mostOffered = 500;

/** The first VMs by name, for choosing among them. */
export function useVmChoice() {
  const { data } = useQuery({
    queryKey: ['firewall', 'vms'],
    queryFn: async () => (await client.vm.list({ query: { limit: mostOffered, sort: 'name' } })).items,
  });
  return data ?? [];
}

/** Projects that VMs are in, the default one and the one that is shown. */
export function useProjects(shown: string): string[] {
  const vms = useVmChoice();
  return [...new Set(['default', shown, ...vms.map(({ project }) => project)])];
}

const uuid = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/;

interface ReferenceProps {
  path: string;
  project: string;
  to: string;
  /** With words around it, from which colour alone would not tell it. */
  isInText?: boolean;
}

/** Links to an object as another one names it. In an address a name is of the project default: others are only named. */
export function Reference({ path, project, to, isInText = false }: ReferenceProps) {
  if (project !== 'default' && !uuid.test(to)) return <span className="break">{to}</span>;
  return (
    <TextLink href={`${path}/${to}`} underline={isInText ? 'always' : 'hover'}>
      {to}
    </TextLink>
  );
}

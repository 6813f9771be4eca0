// The pages of the firewall, as tabs above each of them.
import { useText } from '../i18n/language.ts';
import { TabStrip } from '../ui/tab-strip.tsx';

export function FirewallTabs({ current }: { current: string }) {
  const t = useText();
  return (
    <TabStrip
      base="/firewall"
      current={current}
      label={t('nav.firewall')}
      tabs={[
        ['', t('firewall.overview')],
        ['security-groups', t('firewall.groups')],
        ['address-sets', t('firewall.sets')],
        ['explain', t('firewall.explain')],
      ]}
    />
  );
}

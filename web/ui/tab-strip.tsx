// Tabs that are addresses.
import { useLinkTo } from './link.tsx';

interface TabStripProps {
  base: string;
  current: string;
  label: string;
  /** Last part of the address, and the word. */
  tabs: readonly (readonly [string, string])[];
}

export function TabStrip({ base, current, label, tabs }: TabStripProps) {
  const linkTo = useLinkTo();
  return (
    <nav className="tab-strip" aria-label={label}>
      {tabs.map(([name, word]) => (
        <a
          key={name}
          {...linkTo(name === '' ? base : `${base}/${name}`)}
          aria-current={name === current ? 'page' : undefined}
        >
          {word}
        </a>
      ))}
    </nav>
  );
}

// Keys: "g" and a letter lead to a noun, others do what is done often. They rest while something is typed.
import { useEffect, useRef } from 'react';
import { useGo } from '../ui/link.tsx';
import { allNouns } from './nouns.ts';

/** A letter after "g" counts for this long, milliseconds. */
const chordMs = 1200;

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || target.closest('input, textarea, select, [role=dialog], .xterm, canvas') !== null;
}

interface ShortcutActions {
  onHelp: () => void;
  onTasks: () => void;
}

export function useShortcuts({ onHelp, onTasks }: ShortcutActions): void {
  const go = useGo();
  const chordAt = useRef(-Infinity);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      if (performance.now() - chordAt.current < chordMs) {
        chordAt.current = -Infinity;
        const noun = allNouns.find(({ key }) => key === event.key);
        if (noun !== undefined) {
          event.preventDefault();
          go(noun.path);
        }
        return;
      }
      const actions: Readonly<Record<string, () => void>> = {
        g: () => (chordAt.current = performance.now()),
        '?': onHelp,
        t: onTasks,
        c: () => go('/vms/new'),
        '/': () => document.querySelector<HTMLInputElement>('[data-list-search]')?.focus(),
      };
      const action = actions[event.key];
      if (action === undefined) return;
      event.preventDefault();
      action();
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  });
}

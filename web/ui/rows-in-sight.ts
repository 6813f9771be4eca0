// Which rows of a long table are in sight: all are equally high, so that their places need not be measured.
import { useLayoutEffect, useState, type RefObject } from 'react';

/** Height of a row, pixels; app.css has it too. */
export const rowHeight = 46;
/** Rows that are drawn beyond both ends, so that a quick scroll shows no gaps. */
const spare = 12;

/** First and last index of what is to be drawn. It changes in steps, so that most scroll events draw nothing. */
export function useRowsInSight(scroller: RefObject<HTMLElement | null>, count: number): [number, number] {
  const [range, setRange] = useState<[number, number]>([0, 40]);
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element === null) return undefined;
    const look = (): void => {
      // Where the table itself does not scroll, as on a telephone, the window does.
      const top = Math.max(0, element.scrollTop, -element.getBoundingClientRect().top);
      const height = Math.min(element.clientHeight, window.innerHeight);
      const first = Math.max(0, Math.floor(top / rowHeight / spare - 1) * spare);
      const last = first + Math.ceil(height / rowHeight / spare + 3) * spare;
      setRange((before) => (before[0] === first && before[1] === last ? before : [first, last]));
    };
    look();
    element.addEventListener('scroll', look, { passive: true });
    window.addEventListener('scroll', look, { passive: true });
    const resizing = new ResizeObserver(look);
    resizing.observe(element);
    return () => {
      element.removeEventListener('scroll', look);
      window.removeEventListener('scroll', look);
      resizing.disconnect();
    };
  }, [scroller, count]);
  return [Math.min(range[0], Math.max(0, count - 1)), Math.min(range[1], count - 1)];
}

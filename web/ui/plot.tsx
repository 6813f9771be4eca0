// A plot of series over time, by uPlot. Loaded only by pages that show one. Dragging over it zooms in; a double click shows
// all again.
import 'uplot/dist/uPlot.min.css';
import { Box, Text, useComputedColorScheme } from '@mantine/core';
import { useEffect, useRef } from 'react';
import UPlot from 'uplot';

export interface PlotLine {
  label: string;
  color: string;
  points: readonly (number | null)[];
}

interface PlotProps {
  title: string;
  /** Seconds since 1970, one for each point. */
  times: readonly number[];
  lines: readonly PlotLine[];
  format: (value: number) => string;
  /** Told what was zoomed in to, seconds since 1970. */
  onZoom?: (from: number, to: number) => void;
  /** The lower end of the highest point: percent go to 100 at least. */
  atLeast?: number;
}

const heightPixels = 190;

export function Plot({ title, times, lines, format, onZoom, atLeast = 0 }: PlotProps) {
  const place = useRef<HTMLDivElement>(null);
  const scheme = useComputedColorScheme('light');
  const latest = useRef({ format, onZoom });
  latest.current = { format, onZoom };
  const plot = useRef<UPlot | null>(null);
  const shape = lines.map(({ label, color }) => `${label}${color}`).join();
  useEffect(() => {
    const element = place.current;
    if (element === null) return undefined;
    const stroke = scheme === 'dark' ? '#b3b6ba' : '#4d545c';
    const grid = { stroke: scheme === 'dark' ? '#2c2e33' : '#ece9e4', width: 1 };
    const made = new UPlot(
      {
        width: Math.max(200, element.clientWidth),
        height: heightPixels,
        legend: { live: true },
        cursor: { drag: { x: true, y: false, setScale: false } },
        scales: { y: { range: (_self, _min, max) => [0, Math.max(max * 1.08, atLeast, 0.001)] } },
        axes: [
          { stroke, grid, ticks: grid },
          {
            stroke,
            grid,
            ticks: grid,
            size: 74,
            values: (_self, values) => values.map((one) => latest.current.format(one)),
          },
        ],
        series: [
          {},
          ...lines.map(({ label, color }) => ({
            label,
            stroke: color,
            width: 1.6,
            fill: `${color}22`,
            points: { show: false },
            value: (_self: UPlot, value: number | null) => (value === null ? '–' : latest.current.format(value)),
          })),
        ],
        hooks: {
          setSelect: [
            (self) => {
              const { left, width } = self.select;
              if (width < 8) return;
              latest.current.onZoom?.(self.posToVal(left, 'x'), self.posToVal(left + width, 'x'));
              self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
        },
      },
      [[], ...lines.map(() => [])],
      element,
    );
    plot.current = made;
    const resizing = new ResizeObserver(() => {
      made.setSize({ width: Math.max(200, element.clientWidth), height: heightPixels });
    });
    resizing.observe(element);
    return () => {
      resizing.disconnect();
      made.destroy();
      plot.current = null;
    };
    // Made anew for other series or colours only; points come by setData.
  }, [shape, scheme, atLeast]);
  useEffect(() => {
    plot.current?.setData([[...times], ...lines.map(({ points }) => [...points])]);
  }, [times, lines, shape, scheme, atLeast]);
  return (
    <Box component="figure" m={0} className="card" p="sm" aria-label={title}>
      <Text component="figcaption" fw={600} fz="sm" mb={4}>
        {title}
      </Text>
      <div ref={place} />
    </Box>
  );
}

// Colours, sizes and defaults of everything that is drawn. Contrast is that of WCAG 2.2 AA in both schemes; the tests see
// to it with axe.
import { createTheme, type CSSVariablesResolver, type MantineColorsTuple } from '@mantine/core';

/** From the colour of the house in the icon. */
const lodge: MantineColorsTuple = [
  '#fdf3ec',
  '#f8e3d4',
  '#f1c5a5',
  '#eaa573',
  '#e48a49',
  '#e0792e',
  '#c9641f',
  '#a94f14',
  '#8c4010',
  '#6e310b',
];

export const theme = createTheme({
  primaryColor: 'lodge',
  primaryShade: 7,
  colors: { lodge },
  fontFamily:
    'Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif',
  fontFamilyMonospace:
    'ui-monospace, "SF Mono", "JetBrains Mono", "Cascadia Code", Consolas, "Liberation Mono", monospace',
  defaultRadius: 'md',
  cursorType: 'pointer',
  respectReducedMotion: true,
  headings: { fontWeight: '650' },
  components: {
    Tooltip: { defaultProps: { withArrow: true, openDelay: 250, multiline: true, maw: 340 } },
    Modal: { defaultProps: { centered: true, radius: 'lg', overlayProps: { backgroundOpacity: 0.45, blur: 2 } } },
    Badge: { defaultProps: { variant: 'light', tt: 'none', fw: 550 } },
    Table: { defaultProps: { verticalSpacing: 'xs' } },
  },
});

/** Secondary text is darker (lighter in the dark) than Mantine's, for contrast. */
export const variables: CSSVariablesResolver = () => ({
  variables: { '--lodge-header': '56px' },
  light: {
    '--mantine-color-dimmed': '#4d545c',
    '--mantine-color-placeholder': '#646b73',
    '--mantine-color-body': '#ffffff',
    '--lodge-ground': '#f6f5f3',
    '--lodge-line': '#e4e1dc',
    '--lodge-accent-text': '#974611',
  },
  dark: {
    '--mantine-color-dimmed': '#b3b6ba',
    '--mantine-color-placeholder': '#9a9da3',
    '--mantine-color-body': '#1c1d20',
    '--lodge-ground': '#141517',
    '--lodge-line': '#34363b',
    '--lodge-accent-text': '#f0a26b',
  },
});

// The console's beginning: language first, so that nothing is drawn twice, then the application.
import './style-nonce.ts';
import '@mantine/core/styles.layer.css';
import './app/app.css';
import { createRoot } from 'react-dom/client';
import { App } from './app/app.tsx';
import { startLanguage } from './i18n/language.ts';

await startLanguage();
const root = document.getElementById('root');
if (root !== null) createRoot(root).render(<App />);
